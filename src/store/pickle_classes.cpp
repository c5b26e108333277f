// The part of a pickle that names classes and calls them: what may be named, and what each call builds.
#include <algorithm>
#include <iterator>
#include <optional>

#include "core/error.h"
#include "store/file_io.h"
#include "store/pickle.h"

namespace ldmtune::store {
namespace {

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

void Unpickler::step_class(unsigned char opcode) {
  switch (opcode) {
    case 'c': {  // GLOBAL
      const std::string module = take_line();
      return push_type(module, take_line());
    }
    case 0x93: {  // STACK_GLOBAL
      const Node* name = pop();
      const Node* module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text) refuse("a name that is no text");
      return push_type(module->text, name->text);
    }
    case 'R':   // REDUCE
    case 0x81:  // NEWOBJ
      return call();
    case 'b':  // BUILD
      return build();
    case 'Q':  // BINPERSID
      return push_storage();
    default:
      refuse(cat("opcode ", static_cast<int>(opcode), ", which tensors do not need"));
  }
}

}  // namespace ldmtune::store
