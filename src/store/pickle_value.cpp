// From the nodes of a pickle to plain values and tensors.
#include <numeric>

#include "core/error.h"
#include "store/file_io.h"
#include "store/pickle.h"

namespace ldmtune::store {
namespace {

constexpr int kDeepest = 200;
constexpr std::size_t kMostConverted = 4'000'000;
/// Transposed views are copied: a few of the same storage are plausible, a million are an attack on memory.
constexpr std::uint64_t kMostCopies = 4;

/// One past the last element that a view reaches, relative to its offset; nothing if that exceeds 63 bits.
std::optional<std::int64_t> view_extent(const std::vector<std::int64_t>& size,
                                        const std::vector<std::int64_t>& stride) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < size.size(); ++i) {
    if (size[i] == 0) return 0;
    std::int64_t span = 0;
    if (__builtin_mul_overflow(size[i] - 1, stride[i], &span) || __builtin_add_overflow(last, span, &last))
      return std::nullopt;
  }
  return last < INT64_MAX ? std::optional(last + 1) : std::nullopt;
}

/// Elements of the shape, or nothing past 63 bits.
std::optional<std::int64_t> element_count(const std::vector<std::int64_t>& size) {
  std::int64_t count = 1;
  for (const std::int64_t each : size) {
    if (__builtin_mul_overflow(count, each, &count)) return std::nullopt;
  }
  return count;
}

/// Adds or replaces, as Python's dict does.
class DictBuilder {
 public:
  void set(PyValue key, PyValue value) {
    std::size_t index = dict.items.size();
    if (const auto* text = key.get_if<std::string>()) index = texts_.emplace(*text, index).first->second;
    if (const auto* integer = key.get_if<std::int64_t>()) index = integers_.emplace(*integer, index).first->second;
    if (index < dict.items.size()) {
      dict.items[index].second = std::move(value);
    } else {
      dict.items.emplace_back(std::move(key), std::move(value));
    }
  }
  PyDict dict;

 private:
  std::unordered_map<std::string, std::size_t> texts_;
  std::unordered_map<std::int64_t, std::size_t> integers_;
};

}  // namespace

PyValue Unpickler::value(const std::function<at::Tensor(const StorageReference&)>& load) {
  load_ = load;
  return convert(*stack_.front(), 0);
}

PyValue Unpickler::convert(const Node& node, int depth) {
  if (depth > kDeepest) refuse(cat("values nested more than ", kDeepest, " deep or inside themselves"));
  if (++converted_ > kMostConverted) refuse(cat("more than ", kMostConverted, " values by repetition"));
  switch (node.kind) {
    case Kind::none:
      return {};
    case Kind::boolean:
      return node.integer != 0;
    case Kind::integer:
      return node.integer;
    case Kind::real:
      return node.real;
    case Kind::text:
      return node.text;
    case Kind::tensor:
      return convert_tensor(node);
    case Kind::list: {
      PyList list;
      for (const Node* item : node.items) list.items.push_back(convert(*item, depth + 1));
      return list;
    }
    case Kind::tuple: {
      PyTuple tuple;
      for (const Node* item : node.items) tuple.items.push_back(convert(*item, depth + 1));
      return tuple;
    }
    case Kind::dict:
    case Kind::ordered_dict:
    case Kind::parameter_dict:
      return convert_dict(node, depth);
    case Kind::type:
      refuse(cat("the class ", printable(node.text), " as a value"));
    case Kind::storage:
      refuse("a storage outside of a tensor");
  }
  refuse("an unknown value");
}

PyValue Unpickler::convert_dict(const Node& node, int depth) {
  DictBuilder builder;
  builder.dict.ordered = node.kind != Kind::dict;
  for (std::size_t i = 0; i + 1 < node.items.size(); i += 2) {
    const Kind key = node.items[i]->kind;
    const bool hashable = key == Kind::none || key == Kind::boolean || key == Kind::integer || key == Kind::real ||
                          key == Kind::text || key == Kind::tuple;
    if (!hashable) refuse("a dictionary key that is no plain value");
    builder.set(convert(*node.items[i], depth + 1), convert(*node.items[i + 1], depth + 1));
  }
  return std::move(builder.dict);
}

std::vector<std::int64_t> Unpickler::integers(const Node& tuple) const {
  std::vector<std::int64_t> values;
  for (const Node* item : tuple.items) {
    if (item->kind != Kind::integer || item->integer < 0) refuse("a tensor with a negative or odd size or stride");
    values.push_back(item->integer);
  }
  return values;
}

at::Tensor Unpickler::convert_tensor(const Node& node) {
  const StorageReference& reference = storages_.at(node.items[0]->text);
  const std::int64_t offset = node.items[1]->integer;
  const std::vector<std::int64_t> size = integers(*node.items[2]), stride = integers(*node.items[3]);
  const auto extent = size.size() == stride.size() && size.size() <= 64 ? view_extent(size, stride) : std::nullopt;
  const auto count = element_count(size);
  const std::string shown =
      cat("a tensor of size ", at::IntArrayRef(size), " in storage '", printable(reference.key), "'");
  if (offset < 0 || !extent || !count || offset > reference.numel || *extent > reference.numel - offset) {
    refuse(shown + ", past the storage's end");
  }
  // An expanded view could name far more elements than the file holds.
  if (*count > reference.numel) refuse(shown + ", larger than the storage");
  at::Tensor& storage = loaded_[reference.key];
  if (!storage.defined()) {
    storage = load_(reference);
    loaded_bytes_ += storage.nbytes();
  }
  const at::Tensor view = storage.as_strided(size, stride, offset);
  if (!view.is_contiguous()) copied_bytes_ += view.nbytes();
  if (copied_bytes_ > loaded_bytes_ * kMostCopies) refuse("more rearranged tensors than its storages can account for");
  return view.contiguous();
}

}  // namespace ldmtune::store
