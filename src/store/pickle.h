#pragma once
// Python's pickle format, as far as torch.save uses it. Internal to store.

#include <ATen/ATen.h>

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/torch_file.h"

namespace ldmtune::store {

/// The memory behind tensors, as a pickle names it.
struct StorageReference {
  std::string key;
  at::ScalarType dtype = at::kFloat;
  std::int64_t numel = 0;
};

/// Interprets a pickle without ever importing or calling anything: a class is a name out of an allow-list, a call
/// builds one of a few known values. Its opcodes are those of Python's pickletools, protocols 2 to 4. Memory is bounded
/// by limits on values, and nothing recurses while reading.
class Unpickler {
 public:
  /// `source` names the file in errors; `bytes` must outlive the reader.
  Unpickler(const std::string& bytes, std::size_t start, std::string source);

  /// Reads up to the STOP opcode.
  void run();
  /// Where the pickle ended.
  std::size_t end() const { return at_; }
  /// Every storage that the pickle names.
  const std::map<std::string, StorageReference>& storages() const { return storages_; }
  /// The value read, tensors taken from `load` (1-dimensional, called once a storage). Errors: InputError for views
  /// past their storage, self-references and more than 200 levels.
  PyValue value(const std::function<at::Tensor(const StorageReference&)>& load);

 private:
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    list,
    tuple,
    dict,
    ordered_dict,
    parameter_dict,
    type,
    storage,
    tensor
  };
  /// Containers are shared by reference while reading, as in Python: a memo may hold a list that is filled later.
  struct Node {
    Kind kind = Kind::none;
    std::int64_t integer = 0;
    double real = 0;
    std::string text;          ///< text; "module name" of a type; key of a storage
    std::vector<Node*> items;  ///< of a dict: key, value, key, value ...; of a tensor: storage, offset, size, stride
  };

  void step(unsigned char opcode);
  bool step_constant(unsigned char opcode);
  bool step_number(unsigned char opcode);
  bool step_text(unsigned char opcode);
  bool step_container(unsigned char opcode);
  bool step_items(unsigned char opcode);
  bool step_memo(unsigned char opcode);
  void step_class(unsigned char opcode);

  std::uint64_t take_number(std::size_t bytes);
  std::string take_bytes(std::uint64_t count);
  std::string take_line();
  void push_text(std::uint64_t count);
  void push_integer(std::int64_t value);
  void push_long(std::uint64_t count);
  Node* make(Kind kind);
  void push(Node* node);
  Node* pop();
  Node* top(Kind a, Kind b, const char* expected);
  std::vector<Node*> pop_to_mark();
  void push_tuple(std::vector<Node*> items);
  void add_items(Node* dict, std::vector<Node*> items);
  void remember(std::uint64_t index);
  void recall(std::uint64_t index);
  void push_type(const std::string& module, const std::string& name);
  void push_storage();
  void call();
  void build();
  void check_tensor_arguments(const std::vector<Node*>& arguments) const;
  [[noreturn]] void refuse(const std::string& found) const;

  PyValue convert(const Node& node, int depth);
  PyValue convert_dict(const Node& node, int depth);
  at::Tensor convert_tensor(const Node& node);
  std::vector<std::int64_t> integers(const Node& tuple) const;

  const std::string& bytes_;
  std::size_t at_;
  std::string source_;
  std::deque<Node> nodes_;
  std::vector<Node*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Node*> memo_;
  std::map<std::string, StorageReference> storages_;
  std::map<std::string, at::Tensor> loaded_;
  std::function<at::Tensor(const StorageReference&)> load_;
  std::size_t converted_ = 0;
  std::uint64_t loaded_bytes_ = 0, copied_bytes_ = 0;
};

/// Pickle of `value` (protocol 2); the tensors met are appended to `tensors`, tensor i lying in storage "i".
std::string pickle(const PyValue& value, std::vector<at::Tensor>& tensors);

/// torch's name of the storage class of a dtype ("HalfStorage"); an empty string if there is none.
std::string storage_class(at::ScalarType dtype);

}  // namespace ldmtune::store
