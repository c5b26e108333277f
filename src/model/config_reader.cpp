#include "model/config_reader.h"

#include "core/error.h"

namespace ldmtune::model {

using nlohmann::json;

namespace {

constexpr std::int64_t kLargest = 1 << 24;  // no dimension of a network comes near; keeps products far from overflow

bool is_integer(const json& value, std::int64_t least) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kLargest)) return false;
  const auto number = value.get<std::int64_t>();
  return number >= least && number <= kLargest;
}

template <class Predicate>
bool is_list(const json& value, Predicate predicate) {
  if (!value.is_array() || value.empty()) return false;
  for (const json& item : value) {
    if (!predicate(item)) return false;
  }
  return true;
}

}  // namespace

ConfigReader::ConfigReader(const json& config, std::string component)
    : config_(config), component_(std::move(component)) {
  if (!config_.is_object())
    fail_input(component_, ": config.json must hold a JSON object, found ", config_.type_name());
}

const json* ConfigReader::find(const std::string& key) {
  seen_.insert(key);
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigReader::refuse(const std::string& key, const std::string& expected) const {
  const auto found = config_.find(key);
  fail_input(component_, ": config.json has ", key, " = ",
             found == config_.end() ? "(absent)" : found->dump(-1, ' ', true, json::error_handler_t::replace),
             ", expected ", expected);
}

std::int64_t ConfigReader::integer(const std::string& key, std::int64_t fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!is_integer(*value, 1)) refuse(key, "a positive integer");
  return value->get<std::int64_t>();
}

std::int64_t ConfigReader::count(const std::string& key, std::int64_t fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!is_integer(*value, 0)) refuse(key, "an integer of at least 0");
  return value->get<std::int64_t>();
}

double ConfigReader::number(const std::string& key, double fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!value->is_number()) refuse(key, "a number");
  return value->get<double>();
}

bool ConfigReader::boolean(const std::string& key, bool fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!value->is_string()) refuse(key, "a string");
  return value->get<std::string>();
}

std::vector<std::string> ConfigReader::texts(const std::string& key, const std::vector<std::string>& fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!is_list(*value, [](const json& item) { return item.is_string(); })) refuse(key, "a list of strings");
  return value->get<std::vector<std::string>>();
}

std::vector<std::int64_t> ConfigReader::integers(const std::string& key, const std::vector<std::int64_t>& fallback) {
  const json* value = find(key);
  if (!value) return fallback;
  if (!is_list(*value, [](const json& item) { return is_integer(item, 1); }))
    refuse(key, "a list of positive integers");
  return value->get<std::vector<std::int64_t>>();
}

std::vector<std::int64_t> ConfigReader::integer_per_level(const std::string& key, std::int64_t fallback,
                                                          std::size_t levels) {
  const json* value = find(key);
  if (!value || !value->is_array()) return std::vector<std::int64_t>(levels, integer(key, fallback));
  const auto list = integers(key, {});
  if (list.size() != levels) refuse(key, cat("one integer or a list of ", levels, ", one for each level"));
  return list;
}

std::vector<bool> ConfigReader::boolean_per_level(const std::string& key, bool fallback, std::size_t levels) {
  const json* value = find(key);
  if (!value || !value->is_array()) return std::vector<bool>(levels, boolean(key, fallback));
  const bool booleans = is_list(*value, [](const json& item) { return item.is_boolean(); });
  if (!booleans || value->size() != levels)
    refuse(key, cat("one boolean or a list of ", levels, ", one for each level"));
  return value->get<std::vector<bool>>();
}

void ConfigReader::only(const std::string& key, const std::vector<json>& accepted) {
  const json* value = find(key);
  if (!value) return;
  std::string expected = "null";
  for (const json& each : accepted) {
    if (*value == each) return;
    expected += " or " + each.dump();
  }
  refuse(key, expected + " (anything else is not built yet)");
}

void ConfigReader::expect_all_known() const {
  for (const auto& [key, value] : config_.items()) {
    const bool bookkeeping = !key.empty() && key.front() == '_';
    if (bookkeeping || seen_.count(key) > 0 || value.is_null() || value == json(false)) continue;
    refuse(key, "no such key: ldmtune does not know what it means, so it cannot build this model");
  }
}

}  // namespace ldmtune::model
