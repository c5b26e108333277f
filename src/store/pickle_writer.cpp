#include <bit>

#include "core/error.h"
#include "store/file_io.h"
#include "store/pickle.h"

namespace ldmtune::store {
namespace {

struct StorageClass {
  const char* name;
  at::ScalarType dtype;
};
constexpr StorageClass kStorageClasses[] = {{"FloatStorage", at::kFloat},       {"HalfStorage", at::kHalf},
                                            {"BFloat16Storage", at::kBFloat16}, {"DoubleStorage", at::kDouble},
                                            {"LongStorage", at::kLong},         {"IntStorage", at::kInt},
                                            {"ShortStorage", at::kShort},       {"CharStorage", at::kChar},
                                            {"ByteStorage", at::kByte},         {"BoolStorage", at::kBool}};

/// Writes values with the opcodes of Python's pickle protocol 2, without a memo: every value stands where it is used.
class Writer {
 public:
  explicit Writer(std::vector<at::Tensor>& tensors) : tensors_(tensors) {}

  std::string write(const PyValue& value) {
    out_ = "\x80\x02";
    put(value);
    return out_ + ".";
  }

 private:
  void put_number(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>(value >> (8 * i));
  }
  void put(const PyValue& value) {
    std::visit([this](const auto& data) { put(data); }, value.data);
  }
  void put(std::monostate) { out_ += 'N'; }
  void put(bool value) { out_ += value ? '\x88' : '\x89'; }
  void put(std::int64_t value) {
    if (value >= 0 && value < 256) {
      out_ += 'K';
      put_number(static_cast<std::uint64_t>(value), 1);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
      out_ += 'J';
      put_number(static_cast<std::uint64_t>(value), 4);
    } else {
      out_ += "\x8a\x08";
      put_number(static_cast<std::uint64_t>(value), 8);
    }
  }
  void put(double value) {
    out_ += 'G';
    const auto bits = std::bit_cast<std::uint64_t>(value);
    for (int i = 7; i >= 0; --i) out_ += static_cast<char>(bits >> (8 * i));
  }
  void put(const std::string& text) {
    if (!is_utf8(text) || text.size() > UINT32_MAX)
      fail("a torch file holds UTF-8 text only, found '", printable(text), "'");
    out_ += 'X';
    put_number(text.size(), 4);
    out_ += text;
  }
  void put(const PyList& list) {
    out_ += "](";
    for (const PyValue& item : list.items) put(item);
    out_ += 'e';
  }
  void put(const PyTuple& tuple) {
    if (tuple.items.empty()) {
      out_ += ')';
      return;
    }
    out_ += '(';
    for (const PyValue& item : tuple.items) put(item);
    out_ += 't';
  }
  void put(const PyDict& dict) {
    out_ += dict.ordered ? "ccollections\nOrderedDict\n)R(" : "}(";
    for (const auto& [key, value] : dict.items) {
      put(key);
      put(value);
    }
    out_ += 'u';
  }
  void put_tuple(at::IntArrayRef values) {
    out_ += '(';
    for (const std::int64_t value : values) put(value);
    out_ += 't';
  }
  /// torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()), the storage by persistent id.
  void put(const at::Tensor& tensor) {
    const std::string storage = storage_class(tensor.scalar_type());
    if (storage.empty()) fail("a torch file has no storage for ", c10::toString(tensor.scalar_type()));
    const at::Tensor plain = tensor.detach().cpu().contiguous();
    out_ += "ctorch._utils\n_rebuild_tensor_v2\n((";
    put(std::string("storage"));
    out_ += "ctorch\n" + storage + "\n";
    put(std::to_string(tensors_.size()));
    put(std::string("cpu"));
    put(plain.numel());
    out_ += "tQ";
    put(std::int64_t{0});
    put_tuple(plain.sizes());
    put_tuple(plain.strides());
    put(false);
    out_ += "ccollections\nOrderedDict\n)RtR";
    tensors_.push_back(plain);
  }

  std::string out_;
  std::vector<at::Tensor>& tensors_;
};

}  // namespace

std::string storage_class(at::ScalarType dtype) {
  for (const StorageClass& known : kStorageClasses) {
    if (known.dtype == dtype) return known.name;
  }
  return {};
}

std::string pickle(const PyValue& value, std::vector<at::Tensor>& tensors) { return Writer(tensors).write(value); }

}  // namespace ldmtune::store
