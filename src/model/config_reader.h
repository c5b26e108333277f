#pragma once
// Reads a component's config.json: known keys with diffusers' defaults, and an error that names whatever is not built.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace ldmtune::model {

class ConfigReader {
 public:
  /// `component` names what is configured and where its weights lie, for errors. Keeps a reference to `config`.
  ConfigReader(const nlohmann::json& config, std::string component);

  /// Null counts as absent. Errors: InputError naming key, value and the type that was expected.
  std::int64_t integer(const std::string& key, std::int64_t fallback);  ///< at least 1
  std::int64_t count(const std::string& key, std::int64_t fallback);    ///< at least 0
  double number(const std::string& key, double fallback);
  bool boolean(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::string& fallback);
  std::vector<std::string> texts(const std::string& key, const std::vector<std::string>& fallback);
  std::vector<std::int64_t> integers(const std::string& key, const std::vector<std::int64_t>& fallback);
  /// One integer for all levels or a list of `levels` of them.
  std::vector<std::int64_t> integer_per_level(const std::string& key, std::int64_t fallback, std::size_t levels);
  std::vector<bool> boolean_per_level(const std::string& key, bool fallback, std::size_t levels);

  /// Errors: InputError unless the key is absent, null or one of `accepted`.
  void only(const std::string& key, const std::vector<nlohmann::json>& accepted = {});
  /// The key does not change what the model computes.
  void ignore(const std::string& key) { seen_.insert(key); }
  /// Errors: InputError naming a key that nothing above asked for and that holds neither null nor false. Keys that
  /// start with an underscore are the peers' own bookkeeping.
  void expect_all_known() const;

  /// InputError: "<component>: config.json has <key> = <value>, expected <expected>".
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;

 private:
  const nlohmann::json* find(const std::string& key);

  const nlohmann::json& config_;
  std::string component_;
  std::set<std::string> seen_;
};

}  // namespace ldmtune::model
