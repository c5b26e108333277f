#include "data/json_object.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace ldmtune::data {
namespace {

constexpr int kDepthLimit = 16;

// Counts brackets outside strings, so that the parser's recursion is bounded before it starts.
bool nests_too_deeply(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDepthLimit) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

std::string shortened(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

nlohmann::json parse_object(std::string_view text, const std::string& where) {
  if (nests_too_deeply(text)) fail_input(where, ": expected JSON of at most ", kDepthLimit, " levels, found more");
  try {
    nlohmann::json value = nlohmann::json::parse(text);
    if (!value.is_object()) fail_input(where, ": expected a JSON object, found ", shortened(value));
    return value;
  } catch (const nlohmann::json::exception& error) {
    fail_input(where, ": expected a JSON object, found malformed JSON (", error.what(), ")");
  }
}

JsonObject::JsonObject(const nlohmann::json& value, std::string where) : value_(value), where_(std::move(where)) {
  if (!value_.is_object()) fail_input(where_, ": expected a JSON object, found ", shortened(value_));
}

void JsonObject::fail_kind(const char* key, const char* expected, const nlohmann::json& found) const {
  fail_input(where_, ": key \"", key, "\": expected ", expected, ", found ", shortened(found));
}

const nlohmann::json& JsonObject::at(const char* key, const char* expected) const {
  const auto found = value_.find(key);
  if (found == value_.end()) fail_input(where_, ": expected a key \"", key, "\" with ", expected, ", found none");
  return *found;
}

std::string JsonObject::text(const char* key) const {
  const nlohmann::json& value = at(key, "a string");
  if (!value.is_string()) fail_kind(key, "a string", value);
  return value.get<std::string>();
}

std::string JsonObject::sha256(const char* key) const {
  std::string value = text(key);
  const bool is_hex =
      std::all_of(value.begin(), value.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (value.size() != 64 || !is_hex) fail_kind(key, "64 lower-case hex digits", value);
  return value;
}

std::uint64_t JsonObject::count(const char* key) const {
  const nlohmann::json& value = at(key, "a whole number");
  if (!value.is_number_unsigned()) fail_kind(key, "a whole number of 0 or more", value);
  return value.get<std::uint64_t>();
}

double JsonObject::number(const char* key) const {
  const nlohmann::json& value = at(key, "a number");
  if (!value.is_number()) fail_kind(key, "a number", value);
  return value.get<double>();
}

const nlohmann::json& JsonObject::list(const char* key) const {
  const nlohmann::json& value = at(key, "a list");
  if (!value.is_array()) fail_kind(key, "a list", value);
  return value;
}

std::optional<std::string> JsonObject::optional_text(const char* key) const {
  if (!value_.contains(key) || value_[key].is_null()) return std::nullopt;
  return text(key);
}

std::optional<bool> JsonObject::optional_bool(const char* key) const {
  if (!value_.contains(key) || value_[key].is_null()) return std::nullopt;
  if (!value_[key].is_boolean()) fail_kind(key, "true or false", value_[key]);
  return value_[key].get<bool>();
}

}  // namespace ldmtune::data
