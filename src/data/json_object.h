#pragma once
// Typed access to the keys of a JSON object, with errors that name the file and the key.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace ldmtune::data {

/// Parses one JSON object. Errors: InputError naming `where` for malformed JSON, nesting beyond 16 levels, anything but
/// an object.
nlohmann::json parse_object(std::string_view text, const std::string& where);

/// A JSON object and where it was found ("set/index.json"). Each getter throws InputError naming both and the key, if
/// the key is missing or its value is of another kind.
class JsonObject {
 public:
  /// `value` must outlive this. Errors: InputError if it is no object.
  JsonObject(const nlohmann::json& value, std::string where);

  std::string text(const char* key) const;
  /// Lower-case hex sha256.
  std::string sha256(const char* key) const;
  std::uint64_t count(const char* key) const;
  double number(const char* key) const;
  const nlohmann::json& list(const char* key) const;
  /// Absent or null gives none.
  std::optional<std::string> optional_text(const char* key) const;
  std::optional<bool> optional_bool(const char* key) const;

 private:
  const nlohmann::json& at(const char* key, const char* expected) const;
  [[noreturn]] void fail_kind(const char* key, const char* expected, const nlohmann::json& found) const;

  const nlohmann::json& value_;
  std::string where_;
};

}  // namespace ldmtune::data
