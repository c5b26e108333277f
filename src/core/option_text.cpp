// How option values are written and read: numbers, lists, quotes.

#include "core/option_text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <stdexcept>

#include "core/options.h"

namespace ldmtune {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

template <class T>
T parse_with_from_chars(const std::string& text, const char* expected) {
  const std::string_view view = trimmed(text);
  T value{};
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error == std::errc::result_out_of_range) throw std::invalid_argument(std::string(expected) + " in range");
  if (error != std::errc{} || end != view.data() + view.size()) throw std::invalid_argument(expected);
  return value;
}

bool needs_quotes(const std::string& text) {
  return text != trimmed(text) || text.find_first_of("#|\"\\;") != std::string::npos;
}

std::string in_quotes(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string quote_value(const std::string& text) { return needs_quotes(text) ? in_quotes(text) : text; }

std::string PathList::string() const { return print_value(*this); }

std::string unquote(const std::string& text) {
  const std::string_view view = trimmed(text);
  if (view.size() < 2 || view.front() != '"' || view.back() != '"') return std::string(view);
  std::string plain;
  for (std::size_t i = 1; i + 1 < view.size(); ++i) {
    if (view[i] == '\\' && i + 2 < view.size()) ++i;
    plain += view[i];
  }
  return plain;
}

std::size_t find_unquoted(const std::string& text, char wanted, std::size_t from) {
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && text[i] == wanted && i >= from) {
      return i;
    }
  }
  return std::string::npos;
}

std::vector<std::string> split_list(const std::string& text, char separator) {
  std::vector<std::string> pieces;
  if (trimmed(text).empty()) return pieces;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = find_unquoted(text, separator, begin);
    pieces.push_back(unquote(text.substr(begin, end == std::string::npos ? end : end - begin)));
    if (end == std::string::npos) return pieces;
    begin = end + 1;
  }
}

std::string format_number(double value) {
  char text[40];
  const auto result = std::to_chars(text, text + sizeof text, value);
  return {text, result.ptr};
}

void parse_value(const std::string& text, bool& value) {
  std::string word(trimmed(text));
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
  if (word == "true" || word == "1" || word == "yes" || word == "on") {
    value = true;
  } else if (word == "false" || word == "0" || word == "no" || word == "off") {
    value = false;
  } else {
    throw std::invalid_argument("true or false");
  }
}
void parse_value(const std::string& text, std::int64_t& value) {
  value = parse_with_from_chars<std::int64_t>(text, "a whole number");
}
void parse_value(const std::string& text, std::uint64_t& value) {
  value = parse_with_from_chars<std::uint64_t>(text, "a whole number, 0 or above");
}
void parse_value(const std::string& text, double& value) {
  const double parsed = parse_with_from_chars<double>(text, "a number");
  if (!(parsed - parsed == 0)) throw std::invalid_argument("a finite number");
  value = parsed;
}
void parse_value(const std::string& text, std::string& value) {
  if (text.find('\n') != std::string::npos || text.find('\0') != std::string::npos) {
    throw std::invalid_argument("text without line breaks and NUL");
  }
  value = unquote(text);
}
void parse_value(const std::string& text, std::filesystem::path& value) {
  std::string plain;
  parse_value(text, plain);
  value = plain;
}
void parse_value(const std::string& text, PathList& value) {
  std::string whole;
  parse_value(text, whole);  // refuses what no option may hold
  PathList parsed;
  for (const std::string& path : split_list(text, ',')) {
    if (path.empty()) throw std::invalid_argument("paths separated by commas");
    parsed.paths.emplace_back(path);
  }
  value = std::move(parsed);
}
void parse_value(const std::string& text, std::vector<double>& value) {
  std::vector<double> parsed;
  for (const std::string& piece : split_list(text, ',')) {
    double number = 0;
    try {
      parse_value(piece, number);
    } catch (const std::invalid_argument&) {
      throw std::invalid_argument("numbers separated by commas");
    }
    parsed.push_back(number);
  }
  value = std::move(parsed);
}
void parse_value(const std::string& text, std::vector<std::string>& value) { value = split_list(text, '|'); }

std::string print_value(bool value) { return value ? "true" : "false"; }
std::string print_value(std::int64_t value) { return std::to_string(value); }
std::string print_value(std::uint64_t value) { return std::to_string(value); }
std::string print_value(double value) { return format_number(value); }
std::string print_value(const std::string& value) { return quote_value(value); }
std::string print_value(const std::filesystem::path& value) { return quote_value(value.string()); }
std::string print_value(const PathList& value) {
  std::string text;
  for (const std::filesystem::path& path : value) {
    const bool holds_comma = path.string().find(',') != std::string::npos;
    text += (text.empty() ? "" : ", ") + (holds_comma ? in_quotes(path.string()) : quote_value(path.string()));
  }
  return text;
}
std::string print_value(const std::vector<double>& value) {
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) text += (i ? "," : "") + format_number(value[i]);
  return text;
}
std::string print_value(const std::vector<std::string>& value) {
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) text += (i ? " | " : "") + quote_value(value[i]);
  return text;
}

}  // namespace ldmtune
