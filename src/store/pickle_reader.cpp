#include <bit>

#include "core/error.h"
#include "store/file_io.h"
#include "store/pickle.h"

namespace ldmtune::store {
namespace {

constexpr std::size_t kMostValues = 4'000'000;
constexpr std::uint64_t kLargestMemoIndex = 10'000'000;

/// What a type's name may be, as "module name". torch's storages are looked up by dtype instead.
constexpr const char* kTypes[] = {"collections OrderedDict",
                                  "torch._utils _rebuild_tensor",
                                  "torch._utils _rebuild_tensor_v2",
                                  "torch._utils _rebuild_parameter",
                                  "torch Size",
                                  "builtins set",
                                  "__builtin__ set",
                                  "torch.nn.modules.container ParameterDict"};

/// The dtype of "torch HalfStorage" or "torch.cuda HalfStorage"; nothing for other names.
std::optional<at::ScalarType> storage_dtype(const std::string& type) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong, at::kInt, at::kShort,
                                     at::kChar, at::kByte, at::kBool}) {
    const std::string name = storage_class(dtype);
    if (type == "torch " + name || type == "torch.cuda " + name) return dtype;
  }
  return std::nullopt;
}

}  // namespace

Unpickler::Unpickler(const std::string& bytes, std::size_t start, std::string source)
    : bytes_(bytes), at_(start), source_(std::move(source)) {}

void Unpickler::refuse(const std::string& found) const {
  fail_input(source_, ": expected plain values and tensors, found ", found, " at byte ", at_,
             " of its pickle. Nothing of it was run. Use a file from a source you trust, saved with torch.save.");
}

std::uint64_t Unpickler::take_number(std::size_t bytes) {
  if (bytes_.size() - at_ < bytes) refuse("its end");
  std::uint64_t value = 0;
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes_[at_ + i]);
  at_ += bytes;
  return value;
}

std::string Unpickler::take_bytes(std::uint64_t count) {
  if (bytes_.size() - at_ < count) refuse(cat("a length of ", count, " past its end"));
  std::string text = bytes_.substr(at_, count);
  at_ += count;
  return text;
}

std::string Unpickler::take_line() {
  const std::size_t end = bytes_.find('\n', at_);
  if (end == std::string::npos) refuse("a name without an end");
  std::string line = bytes_.substr(at_, end - at_);
  at_ = end + 1;
  return line;
}

Unpickler::Node* Unpickler::make(Kind kind) {
  if (nodes_.size() >= kMostValues) refuse(cat("more than ", kMostValues, " values"));
  nodes_.emplace_back().kind = kind;
  return &nodes_.back();
}

void Unpickler::push(Node* node) {
  if (stack_.size() >= kMostValues) refuse(cat("more than ", kMostValues, " values on its stack"));
  stack_.push_back(node);
}

Unpickler::Node* Unpickler::pop() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) refuse("an operation on an empty stack");
  Node* node = stack_.back();
  stack_.pop_back();
  return node;
}

Unpickler::Node* Unpickler::top(Kind a, Kind b, const char* expected) {
  Node* node = pop();
  if (node->kind != a && node->kind != b) refuse(cat("an operation on something that is no ", expected));
  stack_.push_back(node);
  return node;
}

std::vector<Unpickler::Node*> Unpickler::pop_to_mark() {
  if (marks_.empty()) refuse("an operation without its mark");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Node*> items(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

void Unpickler::push_text(std::uint64_t count) {
  Node* node = make(Kind::text);
  node->text = take_bytes(count);
  if (!is_utf8(node->text)) refuse("text that is not UTF-8");
  push(node);
}

void Unpickler::push_long(std::uint64_t count) {
  if (count > 8) refuse(cat("an integer of ", count, " bytes"));
  std::uint64_t value = take_number(count);
  const bool negative = count > 0 && count < 8 && (value >> (8 * count - 1)) & 1;
  if (negative) value |= ~std::uint64_t{0} << (8 * count);
  Node* node = make(Kind::integer);
  node->integer = static_cast<std::int64_t>(value);
  push(node);
}

void Unpickler::push_tuple(std::vector<Node*> items) {
  Node* node = make(Kind::tuple);
  node->items = std::move(items);
  push(node);
}

void Unpickler::add_items(Node* dict, std::vector<Node*> items) {
  if (items.size() % 2 != 0) refuse("a key without a value");
  dict->items.insert(dict->items.end(), items.begin(), items.end());
}

void Unpickler::remember(std::uint64_t index) {
  if (index > kLargestMemoIndex) refuse(cat("memo index ", index));
  Node* node = pop();
  stack_.push_back(node);
  memo_[index] = node;
}

void Unpickler::recall(std::uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) refuse(cat("memo index ", index, ", which is empty"));
  push(found->second);
}

void Unpickler::push_type(const std::string& module, const std::string& name) {
  const std::string type = module + " " + name;
  const bool known = std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes) || storage_dtype(type);
  if (!known) refuse(cat("the name ", printable(module), ".", printable(name), ", which is not allowed"));
  Node* node = make(Kind::type);
  node->text = type;
  push(node);
}

/// ("storage", type, key, location, number of elements[, None]) becomes a storage.
void Unpickler::push_storage() {
  const Node* id = pop();
  const std::vector<Node*>& parts = id->items;
  const bool shaped = id->kind == Kind::tuple &&
                      (parts.size() == 5 || (parts.size() == 6 && parts[5]->kind == Kind::none)) &&
                      parts[0]->kind == Kind::text && parts[0]->text == "storage" && parts[1]->kind == Kind::type &&
                      parts[2]->kind == Kind::text && parts[4]->kind == Kind::integer;
  const auto dtype = shaped ? storage_dtype(parts[1]->text) : std::nullopt;
  if (!dtype || parts[4]->integer < 0) refuse("an unknown persistent id");
  const StorageReference reference{parts[2]->text, *dtype, parts[4]->integer};
  const StorageReference& known = storages_.emplace(reference.key, reference).first->second;
  if (known.dtype != reference.dtype || known.numel != reference.numel) {
    refuse("storage '" + printable(reference.key) + "' with two types or sizes");
  }
  Node* node = make(Kind::storage);
  node->text = reference.key;
  push(node);
}

void Unpickler::check_tensor_arguments(const std::vector<Node*>& arguments) const {
  const bool shaped = arguments.size() >= 4 && arguments[0]->kind == Kind::storage &&
                      arguments[1]->kind == Kind::integer && arguments[2]->kind == Kind::tuple &&
                      arguments[3]->kind == Kind::tuple;
  if (!shaped) refuse("a tensor without storage, offset, size and stride");
}

/// REDUCE and NEWOBJ: the only calls there are build a tensor, a parameter, a size or an empty dictionary.
void Unpickler::call() {
  const Node* arguments = pop();
  const Node* type = pop();
  if (type->kind != Kind::type || arguments->kind != Kind::tuple) refuse("a call of something that is no allowed name");
  const std::vector<Node*>& items = arguments->items;
  const std::string& name = type->text;
  if (name == "torch._utils _rebuild_tensor_v2" || name == "torch._utils _rebuild_tensor") {
    check_tensor_arguments(items);
    Node* node = make(Kind::tensor);
    node->items.assign(items.begin(), items.begin() + 4);
    push(node);
  } else if (name == "torch._utils _rebuild_parameter" && !items.empty() && items[0]->kind == Kind::tensor) {
    push(items[0]);
  } else if ((name == "builtins set" || name == "__builtin__ set") && items.size() == 1 &&
             items[0]->kind == Kind::list) {
    push(items[0]);  // a module's set of names: order and copies do not matter
  } else if (name == "torch Size" && items.size() == 1 && items[0]->kind == Kind::tuple) {
    push(items[0]);
  } else if (name == "collections OrderedDict" && items.empty()) {
    push(make(Kind::ordered_dict));
  } else if (name == "torch.nn.modules.container ParameterDict" && items.empty()) {
    push(make(Kind::parameter_dict));
  } else {
    refuse(cat("a call of ", printable(name), " with unexpected arguments"));
  }
}

/// BUILD sets an object's attributes. A state_dict's `_metadata` says nothing about its tensors; a ParameterDict keeps
/// its contents there.
void Unpickler::build() {
  const Node* state = pop();
  Node* object = top(Kind::ordered_dict, Kind::parameter_dict, "OrderedDict or ParameterDict");
  if (state->kind != Kind::dict) refuse("attributes that are no dictionary");
  if (object->kind == Kind::ordered_dict) return;
  for (std::size_t i = 0; i + 1 < state->items.size(); i += 2) {
    const Node* key = state->items[i];
    const Node* value = state->items[i + 1];
    if (key->kind != Kind::text || key->text != "_parameters") continue;
    if (value->kind != Kind::dict && value->kind != Kind::ordered_dict) refuse("a ParameterDict without parameters");
    object->items = value->items;
  }
}

void Unpickler::run() {
  for (;;) {
    const auto opcode = static_cast<unsigned char>(take_number(1));
    if (opcode == '.') break;
    step(opcode);
  }
  if (stack_.size() != 1 || !marks_.empty()) refuse("an end with more or less than one value");
}

void Unpickler::step(unsigned char opcode) {
  if (!step_constant(opcode) && !step_container(opcode) && !step_memo(opcode)) step_class(opcode);
}

bool Unpickler::step_constant(unsigned char opcode) {
  const auto push_integer = [this](std::int64_t value) {
    Node* node = make(Kind::integer);
    node->integer = value;
    push(node);
  };
  switch (opcode) {
    case 0x80:  // PROTO
      if (take_number(1) > 5) refuse("an unknown protocol");
      return true;
    case 0x95:
      take_number(8);
      return true;  // FRAME
    case 'N':
      push(make(Kind::none));
      return true;
    case 0x88:
    case 0x89:  // NEWTRUE, NEWFALSE
      push(make(Kind::boolean));
      stack_.back()->integer = opcode == 0x88;
      return true;
    case 'K':
      push_integer(static_cast<std::int64_t>(take_number(1)));
      return true;
    case 'M':
      push_integer(static_cast<std::int64_t>(take_number(2)));
      return true;
    case 'J':
      push_integer(static_cast<std::int32_t>(take_number(4)));
      return true;
    case 0x8a:
      push_long(take_number(1));
      return true;  // LONG1
    case 'G': {     // BINFLOAT: big-endian
      std::uint64_t bits = 0;
      for (int i = 0; i < 8; ++i) bits = bits << 8 | take_number(1);
      push(make(Kind::real));
      stack_.back()->real = std::bit_cast<double>(bits);
      return true;
    }
    case 'X':
    case 'T':
      push_text(take_number(4));
      return true;  // BINUNICODE, BINSTRING
    case 0x8c:
    case 'U':
      push_text(take_number(1));
      return true;  // SHORT_BINUNICODE, SHORT_BINSTRING
    case 0x8d:
      push_text(take_number(8));
      return true;  // BINUNICODE8
    default:
      return false;
  }
}

bool Unpickler::step_container(unsigned char opcode) {
  switch (opcode) {
    case '(':
      if (marks_.size() >= kMostValues) refuse("too many marks");
      marks_.push_back(stack_.size());
      return true;
    case ']':
      push(make(Kind::list));
      return true;
    case '}':
      push(make(Kind::dict));
      return true;
    case ')':
      push_tuple({});
      return true;
    case 't':
      push_tuple(pop_to_mark());
      return true;
    case 0x85:
    case 0x86:
    case 0x87: {  // TUPLE1 to TUPLE3
      std::vector<Node*> items(opcode - 0x84u);
      for (std::size_t i = items.size(); i-- > 0;) items[i] = pop();
      push_tuple(std::move(items));
      return true;
    }
    case 'a': {
      Node* item = pop();
      top(Kind::list, Kind::list, "list")->items.push_back(item);
      return true;
    }
    case 'e': {
      const std::vector<Node*> items = pop_to_mark();
      Node* list = top(Kind::list, Kind::list, "list");
      list->items.insert(list->items.end(), items.begin(), items.end());
      return true;
    }
    case 's': {
      Node* value = pop();
      Node* key = pop();
      add_items(top(Kind::dict, Kind::ordered_dict, "dictionary"), {key, value});
      return true;
    }
    case 'u': {
      std::vector<Node*> items = pop_to_mark();
      add_items(top(Kind::dict, Kind::ordered_dict, "dictionary"), std::move(items));
      return true;
    }
    default:
      return false;
  }
}

bool Unpickler::step_memo(unsigned char opcode) {
  switch (opcode) {
    case 'q':
      remember(take_number(1));
      return true;
    case 'r':
      remember(take_number(4));
      return true;
    case 0x94:
      remember(memo_.size());
      return true;  // MEMOIZE
    case 'h':
      recall(take_number(1));
      return true;
    case 'j':
      recall(take_number(4));
      return true;
    case '0':
      pop();
      return true;
    default:
      return false;
  }
}

void Unpickler::step_class(unsigned char opcode) {
  switch (opcode) {
    case 'c': {
      const std::string module = take_line();
      return push_type(module, take_line());
    }
    case 0x93: {  // STACK_GLOBAL
      const Node* name = pop();
      const Node* module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text) refuse("a name that is no text");
      return push_type(module->text, name->text);
    }
    case 'R':
    case 0x81:
      return call();  // REDUCE, NEWOBJ
    case 'b':
      return build();
    case 'Q':
      return push_storage();
    default:
      refuse(cat("opcode ", static_cast<int>(opcode), ", which tensors do not need"));
  }
}

}  // namespace ldmtune::store
