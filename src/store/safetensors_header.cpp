#include "store/safetensors_header.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.h"
#include "store/file_io.h"

namespace ldmtune::store {
namespace {

constexpr std::size_t kLongestName = 4096;
constexpr std::size_t kMostDimensions = 64;

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};
/// In the reference implementation's order: a file holds the tensors of the last dtype first.
constexpr DtypeName kDtypes[] = {{"BOOL", at::kBool},
                                 {"U8", at::kByte},
                                 {"I8", at::kChar},
                                 {"F8_E5M2", at::kFloat8_e5m2},
                                 {"F8_E4M3", at::kFloat8_e4m3fn},
                                 {"I16", at::kShort},
                                 {"U16", at::kUInt16},
                                 {"F16", at::kHalf},
                                 {"BF16", at::kBFloat16},
                                 {"I32", at::kInt},
                                 {"U32", at::kUInt32},
                                 {"F32", at::kFloat},
                                 {"F64", at::kDouble},
                                 {"I64", at::kLong},
                                 {"U64", at::kUInt64}};

/// Receives the parser's events; only the one shape that a header may have is accepted:
/// {"__metadata__": {text: text}, name: {"dtype": text, "shape": [n], "data_offsets": [begin, end]}}.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(const std::filesystem::path& file) : file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (place_ == Place::nothing) return enter(Place::top);
    if (place_ == Place::top) return enter(name_ == "__metadata__" ? Place::metadata : Place::tensor);
    refuse("an object");
  }
  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::top ? Place::nothing : Place::top;
    return true;
  }
  bool key(string_t& text) override {
    if (place_ == Place::top) return start_entry(text);
    if (!keys_.insert(text).second) fail_input(where(), ": expected each key once, found ", printable(text), " twice.");
    key_ = text;
    return true;
  }
  bool string(string_t& text) override {
    if (place_ == Place::metadata) return header_.metadata.emplace(key_, text).second;
    if (place_ == Place::tensor && key_ == "dtype") return set_dtype(text);
    refuse("a string");
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::tensor && (key_ == "shape" || key_ == "data_offsets")) return enter(Place::array);
    refuse("an array");
  }
  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::array) refuse("a number");
    std::vector<std::uint64_t>& list = key_ == "shape" ? shape_ : offsets_;
    if (list.size() >= kMostDimensions)
      fail_input(where(), ": expected at most ", kMostDimensions, " numbers in ", key_, ".");
    list.push_back(value);
    return true;
  }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a number that is no 64-bit integer"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool null() override { refuse("null"); }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    fail_input(file_, ": expected a JSON header, found an error at its byte ", position, ": ",
               printable(error.what(), 200), ". The file is damaged or no safetensors file.");
  }

 private:
  enum class Place { nothing, top, metadata, tensor, array };

  bool enter(Place place) {
    place_ = place;
    if (place == Place::tensor || place == Place::metadata) {
      keys_.clear();
      key_.clear();
    }
    return true;
  }
  std::string where() const { return cat(file_, ": header entry '", printable(name_), "'"); }
  [[noreturn]] void refuse(const char* found) const {
    fail_input(where(), key_.empty() ? "" : cat(" (", printable(key_), ")"), ": found ", found,
               ", expected {\"dtype\", \"shape\", \"data_offsets\"} or text metadata. The file is damaged.");
  }
  bool start_entry(const std::string& name) {
    name_ = name;
    if (name.size() > kLongestName) fail_input(where(), ": expected a name of at most ", kLongestName, " bytes.");
    const bool control = std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20; });
    if (control || name.find("../") != std::string::npos) {
      fail_input(where(), ": expected a tensor name without control characters and '../'.");
    }
    if (!names_.insert(name).second) fail_input(where(), ": expected each name once, found it twice.");
    dtype_.reset();
    shape_.clear();
    offsets_.clear();
    return true;
  }
  bool set_dtype(const std::string& text) {
    const auto* found =
        std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](auto& known) { return text == known.name; });
    if (found == std::end(kDtypes)) {
      fail_input(where(), ": expected a dtype such as F32, F16, BF16 or I64, found '", printable(text), "'.");
    }
    dtype_ = found->dtype;
    return true;
  }
  void finish_tensor() {
    const bool known_keys = std::all_of(keys_.begin(), keys_.end(), [](const std::string& key) {
      return key == "dtype" || key == "shape" || key == "data_offsets";
    });
    if (!dtype_ || keys_.size() != 3 || !known_keys || offsets_.size() != 2) {
      fail_input(where(), ": expected exactly dtype, shape and two data_offsets.");
    }
    SafetensorsEntry entry{{name_, *dtype_, {}}, offsets_[0], offsets_[1]};
    for (const std::uint64_t size : shape_) {
      if (size > INT64_MAX) fail_input(where(), ": expected dimensions below 2^63, found ", size, ".");
      entry.info.shape.push_back(static_cast<std::int64_t>(size));
    }
    header_.entries.push_back(std::move(entry));
  }

  const std::filesystem::path& file_;
  SafetensorsHeader header_;
  Place place_ = Place::nothing;
  std::string name_, key_;
  std::set<std::string> names_, keys_;
  std::optional<at::ScalarType> dtype_;
  std::vector<std::uint64_t> shape_, offsets_;
};

/// Bytes of the shape, or nothing if they exceed 64 bits.
std::optional<std::uint64_t> byte_count(const TensorInfo& info) {
  std::uint64_t bytes = c10::elementSize(info.dtype);
  for (const std::int64_t size : info.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes)) return std::nullopt;
  }
  return bytes;
}

void check_entry(const std::filesystem::path& file, const SafetensorsEntry& entry) {
  const std::string where = cat(file, ": tensor '", printable(entry.info.name), "'");
  if (entry.begin > entry.end) {
    fail_input(where, ": expected data_offsets in order, found [", entry.begin, ", ", entry.end, "].");
  }
  const auto bytes = byte_count(entry.info);
  if (!bytes || *bytes != entry.end - entry.begin) {
    fail_input(where, ": expected ", bytes ? std::to_string(*bytes) : "over 2^64",
               " bytes for its shape and dtype, found ", entry.end - entry.begin, ". The file is damaged.");
  }
  if (entry.begin % c10::elementSize(entry.info.dtype) != 0) {
    fail_input(where, ": expected an offset that is a multiple of its element size, found ", entry.begin,
               ". Save the file again with the safetensors library.");
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(const std::filesystem::path& file, const std::string& json,
                                           std::uint64_t data_size) {
  if (json.empty() || json.front() != '{') {
    fail_input(file,
               ": expected a safetensors header that starts with '{', found something else. Is it the right file?");
  }
  HeaderHandler handler(file);
  nlohmann::json::sax_parse(json, &handler);
  SafetensorsHeader header = handler.take();
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
  });
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    check_entry(file, entry);
    if (entry.begin != expected) {
      fail_input(file, ": tensor '", printable(entry.info.name), "': expected its bytes to start at ", expected,
                 ", where the tensor before ends, found ", entry.begin, " (",
                 entry.begin < expected ? "an overlap" : "a hole", "). The file is damaged.");
    }
    expected = entry.end;
  }
  if (expected != data_size) {
    fail_input(file, ": expected ", expected, " bytes of tensors after the header, found ", data_size,
               ". The file is cut short or has foreign bytes at its end: fetch or write it again.");
  }
  return header;
}

std::string safetensors_dtype(at::ScalarType dtype) {
  for (const DtypeName& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  return {};
}

int safetensors_dtype_order(at::ScalarType dtype) {
  int order = 0;
  while (order < static_cast<int>(std::size(kDtypes)) && kDtypes[order].dtype != dtype) ++order;
  return order;
}

}  // namespace ldmtune::store
