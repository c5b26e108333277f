#pragma once
// The option table: every option has one declaration (name, target with its default, unit, help) and is reachable as
// --section.option on the command line and as option under [section] in a config file.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace ldmtune {

/// One `name = text` found in a file or on the command line, and where.
struct OptionSetting {
  std::string name;
  std::string text;
  std::string where;  ///< "jobs/demo.cfg" or "command line": for errors
};

class OptionTable {
 public:
  /// `name` is "section.option" or "option". The target's present value is the default. T: bool, int64_t, uint64_t,
  /// double, std::string, std::filesystem::path, PathList, std::vector<double>, std::vector<std::string>. `unit` may be
  /// empty.
  template <class T>
  void add(const std::string& name, T& target, const std::string& unit, const std::string& help);

  /// Parses `text` into the option. Errors: InputError naming the option, where it was set, what was expected and
  /// found; an unknown name is answered with the nearest one, or with ours where it is a peer's.
  void set(const OptionSetting& setting);
  void set(const std::vector<OptionSetting>& settings);

  /// Gives an option that was not set() another default; does nothing if it was.
  void set_default(const std::string& name, const std::string& text);

  bool contains(const std::string& name) const { return options_.count(name) > 0; }
  /// True once set() was called for it.
  bool is_set(const std::string& name) const;
  std::string text_of(const std::string& name) const;
  std::vector<std::string> names() const;

  /// All options with their values as a config file; reading it back gives the same configuration. With `comments`,
  /// unit and help stand above each option.
  std::string echo(bool comments = false) const;
  /// For --help: options of these sections ("" = top level), defaults and units.
  std::string help(const std::vector<std::string>& sections = {}) const;

 private:
  struct Option {
    std::string unit, help, default_text;
    std::function<void(const std::string&)> parse;  ///< throws std::invalid_argument with what was expected
    std::function<std::string()> print;
    bool is_set = false;
  };
  void add_option(const std::string& name, Option option);
  [[noreturn]] void fail_unknown(const OptionSetting& setting) const;

  std::map<std::string, Option> options_;
  std::vector<std::string> order_;
};

/// Settings of an INI config file (Boost.Program_options' parser, with quoted values that may hold # and |).
/// Errors: InputError naming file and line.
std::vector<OptionSetting> read_config_file(const std::filesystem::path& file);

/// What a command line holds: `--name value` and `--name=value` in order, a bare `--flag` before another option or at
/// the end as "true", and positional arguments.
struct CommandLine {
  std::vector<OptionSetting> settings;
  std::vector<std::string> positional;
};
CommandLine parse_command_line(const std::vector<std::string>& arguments);

/// Text as it must stand in a config file: quoted where it holds #, |, quotes or outer blanks.
std::string quote_value(const std::string& text);

/// Splits at `separator` outside double quotes; pieces are trimmed and unquoted.
std::vector<std::string> split_list(const std::string& text, char separator);

/// The shortest text that reads back as the same double.
std::string format_number(double value);

}  // namespace ldmtune
