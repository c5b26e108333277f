#include <bit>

#include "core/error.h"
#include "store/file_io.h"
#include "store/pickle.h"

namespace ldmtune::store {
namespace {

constexpr std::size_t kMostValues = 4'000'000;
constexpr std::uint64_t kLargestMemoIndex = 10'000'000;

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

void Unpickler::push_integer(std::int64_t value) {
  Node* node = make(Kind::integer);
  node->integer = value;
  push(node);
}

void Unpickler::push_long(std::uint64_t count) {
  if (count > 8) refuse(cat("an integer of ", count, " bytes"));
  std::uint64_t value = take_number(count);
  const bool negative = count > 0 && count < 8 && (value >> (8 * count - 1)) & 1;
  if (negative) value |= ~std::uint64_t{0} << (8 * count);
  push_integer(static_cast<std::int64_t>(value));
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

void Unpickler::run() {
  for (;;) {
    const auto opcode = static_cast<unsigned char>(take_number(1));
    if (opcode == '.') break;
    step(opcode);
  }
  if (stack_.size() != 1 || !marks_.empty()) refuse("an end with more or less than one value");
}

void Unpickler::step(unsigned char opcode) {
  if (step_constant(opcode) || step_number(opcode) || step_text(opcode)) return;
  if (step_container(opcode) || step_items(opcode) || step_memo(opcode)) return;
  step_class(opcode);
}

bool Unpickler::step_constant(unsigned char opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      if (take_number(1) > 5) refuse("an unknown protocol");
      return true;
    case 0x95:  // FRAME
      take_number(8);
      return true;
    case 'N':  // NONE
      push(make(Kind::none));
      return true;
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      push(make(Kind::boolean));
      stack_.back()->integer = opcode == 0x88;
      return true;
    default:
      return false;
  }
}

bool Unpickler::step_number(unsigned char opcode) {
  switch (opcode) {
    case 'K':  // BININT1
      push_integer(static_cast<std::int64_t>(take_number(1)));
      return true;
    case 'M':  // BININT2
      push_integer(static_cast<std::int64_t>(take_number(2)));
      return true;
    case 'J':  // BININT
      push_integer(static_cast<std::int32_t>(take_number(4)));
      return true;
    case 0x8a:  // LONG1
      push_long(take_number(1));
      return true;
    case 'G': {  // BINFLOAT: big-endian
      std::uint64_t bits = 0;
      for (int i = 0; i < 8; ++i) bits = bits << 8 | take_number(1);
      push(make(Kind::real));
      stack_.back()->real = std::bit_cast<double>(bits);
      return true;
    }
    default:
      return false;
  }
}

bool Unpickler::step_text(unsigned char opcode) {
  switch (opcode) {
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING
      push_text(take_number(4));
      return true;
    case 0x8c:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
      push_text(take_number(1));
      return true;
    case 0x8d:  // BINUNICODE8
      push_text(take_number(8));
      return true;
    default:
      return false;
  }
}

bool Unpickler::step_container(unsigned char opcode) {
  switch (opcode) {
    case '(':  // MARK
      if (marks_.size() >= kMostValues) refuse("too many marks");
      marks_.push_back(stack_.size());
      return true;
    case ']':  // EMPTY_LIST
      push(make(Kind::list));
      return true;
    case '}':  // EMPTY_DICT
      push(make(Kind::dict));
      return true;
    case ')':  // EMPTY_TUPLE
      push_tuple({});
      return true;
    case 't':  // TUPLE
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
    default:
      return false;
  }
}

bool Unpickler::step_items(unsigned char opcode) {
  switch (opcode) {
    case 'a': {  // APPEND
      Node* item = pop();
      top(Kind::list, Kind::list, "list")->items.push_back(item);
      return true;
    }
    case 'e': {  // APPENDS
      const std::vector<Node*> items = pop_to_mark();
      Node* list = top(Kind::list, Kind::list, "list");
      list->items.insert(list->items.end(), items.begin(), items.end());
      return true;
    }
    case 's': {  // SETITEM
      Node* value = pop();
      Node* key = pop();
      add_items(top(Kind::dict, Kind::ordered_dict, "dictionary"), {key, value});
      return true;
    }
    case 'u': {  // SETITEMS
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
    case 'q':  // BINPUT
      remember(take_number(1));
      return true;
    case 'r':  // LONG_BINPUT
      remember(take_number(4));
      return true;
    case 0x94:  // MEMOIZE
      remember(memo_.size());
      return true;
    case 'h':  // BINGET
      recall(take_number(1));
      return true;
    case 'j':  // LONG_BINGET
      recall(take_number(4));
      return true;
    case '0':  // POP
      pop();
      return true;
    default:
      return false;
  }
}

}  // namespace ldmtune::store
