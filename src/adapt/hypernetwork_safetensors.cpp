#include "adapt/hypernetwork_safetensors.h"

#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {
namespace {

using nlohmann::json;
using store::PyDict;
using store::PyList;
using store::PyTuple;
using store::PyValue;

constexpr const char* kFormat = "ldmtune-hypernetwork";

json to_json(const PyValue& value) {
  if (const auto* text = value.get_if<std::string>()) return *text;
  if (const auto* boolean = value.get_if<bool>()) return *boolean;
  if (const auto* whole = value.get_if<std::int64_t>()) return *whole;
  if (const auto* real = value.get_if<double>()) return *real;
  json list = json::array();
  if (const auto* items = value.get_if<PyList>()) {
    for (const PyValue& item : items->items) list.push_back(to_json(item));
    return list;
  }
  return nullptr;
}

/// Only what a setting can be; the reader of the dict judges it further.
PyValue from_json(const json& value, const std::filesystem::path& file, const std::string& key) {
  if (value.is_null()) return {};
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    PyList list;
    for (const json& item : value) {
      if (!item.is_number()) fail_input(file.string(), ": metadata ", key, ": expected a list of numbers");
      list.items.emplace_back(item.get<double>());
    }
    return list;
  }
  fail_input(file.string(), ": metadata ", key, ": expected a setting of a hypernetwork, found an object");
}

struct TensorName {
  std::int64_t width = 0;
  std::size_t role = 0;  ///< 0: k, 1: v
  std::string key;       ///< "linear.0.weight"
};

TensorName parse_name(const std::string& name, const std::filesystem::path& file) {
  TensorName parsed;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data(), last, parsed.width);
  const std::string rest(end, last);
  if (error != std::errc{} || parsed.width < 1 || !(rest.starts_with(".k.") || rest.starts_with(".v."))) {
    fail_input(file.string(), ": no hypernetwork: expected tensors such as 768.k.linear.0.weight, found ", name);
  }
  parsed.role = rest[1] == 'k' ? 0 : 1;
  parsed.key = rest.substr(3);
  return parsed;
}

}  // namespace

void write_hypernetwork_safetensors(const std::filesystem::path& file, const PyDict& dict) {
  store::TensorMap tensors;
  store::Metadata metadata{{"format", kFormat}};
  for (const auto& [key, value] : dict.items) {
    const auto* width = key.get_if<std::int64_t>();
    if (width == nullptr) {
      if (!value.is_none()) metadata[*key.get_if<std::string>()] = to_json(value).dump();
      continue;
    }
    for (std::size_t role = 0; role < 2; ++role) {
      const std::string prefix = std::to_string(*width) + (role == 0 ? ".k." : ".v.");
      for (const auto& [name, tensor] : value.get_if<PyTuple>()->items[role].get_if<PyDict>()->items) {
        tensors[prefix + *name.get_if<std::string>()] = *tensor.get_if<at::Tensor>();
      }
    }
  }
  store::write_safetensors(file, tensors, metadata);
}

PyDict read_hypernetwork_safetensors(const std::filesystem::path& file) {
  const store::SafetensorsFile content = store::read_safetensors(file);
  std::map<std::int64_t, std::array<PyDict, 2>> networks;
  for (const auto& [name, tensor] : content.tensors) {
    const TensorName parsed = parse_name(name, file);
    networks[parsed.width][parsed.role].items.emplace_back(parsed.key, tensor);
  }
  PyDict dict;
  for (auto& [width, pair] : networks) {
    PyTuple tuple;
    for (PyDict& state : pair) tuple.items.emplace_back(std::move(state));
    dict.items.emplace_back(width, std::move(tuple));
  }
  for (const auto& [key, text] : content.metadata) {
    if (key == "format") continue;
    const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) fail_input(file.string(), ": metadata ", key, ": expected JSON, found '", text, "'");
    dict.items.emplace_back(key, from_json(value, file, key));
  }
  return dict;
}

}  // namespace ldmtune::adapt
