// Config files and command lines -> settings.

#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/option_text.h"
#include "core/options.h"

namespace ldmtune {
namespace {

// Boost's parser cuts a line at any '#', in quotes too; inside quotes it is carried past the parser as this character.
constexpr char kHiddenHash = '\x01';
constexpr std::uintmax_t kLargestConfig = 4u << 20;

std::string read_config_text(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) fail_input(file.string(), ": no such config file");
  if (!std::filesystem::is_regular_file(file, error))
    fail_input(file.string(), ": expected a config file, found a folder or device");
  if (std::filesystem::file_size(file, error) > kLargestConfig)
    fail_input(file.string(), ": larger than 4 MiB, not a config file");
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) fail_input(file.string(), ": cannot be read");
  return text.str();
}

/// The line without its comment, hashes in quotes hidden from Boost's parser.
std::string guarded_line(std::string line, const std::filesystem::path& file, int number) {
  const auto place = [&] { return cat(file.string(), ":", number); };
  if (line.find('\0') != std::string::npos || line.find(kHiddenHash) != std::string::npos) {
    fail_input(place(), ": control characters in a config file");
  }
  const std::size_t comment = find_unquoted(line, '#');
  if (comment != std::string::npos) line.resize(comment);
  for (char& c : line) {
    if (c == '#') c = kHiddenHash;
  }
  return line;
}

}  // namespace

std::vector<OptionSetting> read_config_file(const std::filesystem::path& file) {
  std::istringstream text(read_config_text(file));
  std::string line, guarded;
  for (int number = 1; std::getline(text, line); ++number) guarded += guarded_line(line, file, number) + '\n';
  std::vector<OptionSetting> settings;
  try {
    std::istringstream in(guarded);
    const boost::program_options::options_description none;
    const auto parsed = boost::program_options::parse_config_file(in, none, /*allow_unregistered=*/true);
    for (const auto& option : parsed.options) {
      std::string value = option.value.empty() ? "" : option.value.front();
      for (char& c : value) {
        if (c == kHiddenHash) c = '#';
      }
      settings.push_back({option.string_key, value, file.string()});
    }
  } catch (const boost::program_options::error& error) {
    fail_input(file.string(), ": ", error.what(), " (expected lines such as 'name = value' and '[section]')");
  }
  return settings;
}

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.rfind("--", 0) != 0 || argument.size() == 2) {
      line.positional.push_back(argument);
      continue;
    }
    const std::size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    if (equals != std::string::npos) {
      line.settings.push_back({name, argument.substr(equals + 1), "command line"});
    } else if (i + 1 < arguments.size() && arguments[i + 1].rfind("--", 0) != 0) {
      line.settings.push_back({name, arguments[++i], "command line"});
    } else {
      line.settings.push_back({name, "true", "command line"});
    }
  }
  return line;
}

}  // namespace ldmtune
