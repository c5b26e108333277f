#include "sweep/guards.h"

#include <algorithm>
#include <cctype>

#include "core/error.h"

namespace ldmtune::sweep {
namespace {

constexpr const char* kIf = " if ";

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

/// Pieces between the bars that stand outside quotes and parentheses, as they stand there.
std::vector<std::string> outer_pieces(const std::string& text) {
  std::vector<std::string> pieces{""};
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
    if (!quoted && c == '(') ++depth;
    if (!quoted && c == ')') --depth;
    if (c == '|' && !quoted && depth == 0) {
      pieces.emplace_back();
    } else {
      pieces.back() += c;
    }
  }
  return pieces;
}

/// Where ` if option = ...` begins outside quotes; npos without one.
std::size_t find_condition(const std::string& piece) {
  bool quoted = false;
  for (std::size_t i = 0; i < piece.size(); ++i) {
    if (piece[i] == '"' && (i == 0 || piece[i - 1] != '\\')) quoted = !quoted;
    if (quoted || piece.compare(i, 4, kIf) != 0) continue;
    std::size_t end = i + 4;
    while (end < piece.size() && (std::isalnum(static_cast<unsigned char>(piece[end])) || piece[end] == '_' ||
                                  piece[end] == '.'))
      ++end;
    const std::size_t equals = piece.find_first_not_of(' ', end);
    if (end > i + 4 && equals != std::string::npos && piece[equals] == '=') return i;
  }
  return std::string::npos;
}

std::vector<std::string> values_before(const std::string& text) {
  const std::string whole = trimmed(text);
  const bool is_group = whole.size() > 1 && whole.front() == '(' && whole.back() == ')';
  std::vector<std::string> values = split_list(is_group ? whole.substr(1, whole.size() - 2) : whole, '|');
  if (values.empty()) values.emplace_back();  // the empty value
  return values;
}

bool is_draw(const std::string& text) {
  for (const char* function : {"uniform(", "log_uniform(", "integer(", "choice("}) {
    if (text.rfind(function, 0) == 0) return true;
  }
  return false;
}

}  // namespace

std::vector<GuardedValue> guarded_values(const OptionSetting& setting) {
  std::vector<GuardedValue> found;
  const std::string place = setting.name + " (" + setting.where + ")";
  for (const std::string& piece : outer_pieces(setting.text)) {
    const std::size_t at = find_condition(piece);
    if (at == std::string::npos) {
      const std::vector<std::string> plain = split_list(piece, '|');
      found.push_back({plain.empty() ? "" : quote_value(plain.front()), std::nullopt});
      continue;
    }
    const Condition condition = read_condition(setting.name + piece.substr(at), place);
    for (const std::string& value : values_before(piece.substr(0, at))) {
      if (is_draw(value)) {
        fail_input("option ", place, ": a random draw takes no condition, found '", trimmed(piece),
                   "'; say it in sweep.conditions");
      }
      found.push_back({quote_value(value), condition});
    }
  }
  const bool any = std::any_of(found.begin(), found.end(), [](const auto& value) { return value.condition.has_value(); });
  return any ? found : std::vector<GuardedValue>();
}

Choice choose(const std::vector<std::optional<Condition>>& conditions, std::size_t chosen, const OptionTable& table) {
  const auto counts = [&](const std::optional<Condition>& condition) { return !condition || holds(*condition, table); };
  if (counts(conditions.at(chosen))) return Choice::set;
  const bool none = std::none_of(conditions.begin(), conditions.end(), counts);
  return none && chosen == 0 ? Choice::inactive : Choice::skip;
}

}  // namespace ldmtune::sweep
