#pragma once
// Python values in torch.save's zip format (.pt, .ckpt): what torch.load(weights_only=True) opens. Reading interprets
// the pickle with an allow-list of its own and never executes or imports anything.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "store/tensor_map.h"

namespace ldmtune::store {

struct PyValue;
struct PyList {
  std::vector<PyValue> items;
};
struct PyTuple {
  std::vector<PyValue> items;
};
/// Keeps insertion order; `ordered` is a collections.OrderedDict.
struct PyDict {
  std::vector<std::pair<PyValue, PyValue>> items;
  bool ordered = false;
  /// The value under a string or an integer key; null if there is none.
  const PyValue* find(const std::string& key) const;
  const PyValue* find(std::int64_t key) const;
};

struct PyValue {
  using Data =
      std::variant<std::monostate, bool, std::int64_t, double, std::string, at::Tensor, PyList, PyTuple, PyDict>;
  Data data;

  PyValue() = default;
  template <class T>
  PyValue(T value) : data(std::move(value)) {}
  PyValue(const char* text) : data(std::string(text)) {}
  PyValue(int value) : data(static_cast<std::int64_t>(value)) {}

  bool is_none() const { return std::holds_alternative<std::monostate>(data); }
  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&data);
  }
};

/// Reads a zip-format or legacy torch.save file. Allowed: None, bool, int, float, str, list, tuple, dict, OrderedDict,
/// tensors, Parameters (as tensors), and torch.nn.ParameterDict-like state through its plain contents. Errors:
/// InputError naming the file and what was refused (any other global, REDUCE of anything else, bad CRC, views past
/// their storage, truncated or nested beyond 200 levels, self-references, ...).
PyValue read_torch_file(const std::filesystem::path& file);

/// Writes atomically. Each tensor is written with a storage of its own (contiguous). Same value and file stem, same
/// bytes.
void write_torch_file(const std::filesystem::path& file, const PyValue& value);

}  // namespace ldmtune::store
