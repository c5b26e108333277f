#include "sweep/conditions.h"

#include <algorithm>

#include "core/config.h"
#include "core/error.h"

namespace ldmtune::sweep {
namespace {

constexpr const char* kExpected = "expected `option if other.option = value [or value ...]`, found '";

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::vector<std::string> split_words(std::string text, const std::string& separator) {
  std::vector<std::string> pieces;
  for (std::size_t at = text.find(separator); at != std::string::npos; at = text.find(separator)) {
    pieces.push_back(trimmed(text.substr(0, at)));
    text = text.substr(at + separator.size());
  }
  pieces.push_back(trimmed(text));
  return pieces;
}

/// A value as the option itself would print it: `1, 2, 1` is `1,2,1`.
std::string canonical(const std::string& option, const std::string& value, const std::string& where) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  table.set({option, value, where});
  return table.text_of(option);
}

}  // namespace

Condition read_condition(const std::string& text, const std::string& where) {
  const std::vector<std::string> sides = split_words(text, " if ");
  const std::size_t equals = sides.size() == 2 ? sides[1].find('=') : std::string::npos;
  if (equals == std::string::npos || sides[0].empty()) fail_input("option ", where, ": ", kExpected, text, "'");
  Condition condition{sides[0], trimmed(sides[1].substr(0, equals)), {}};
  for (const std::string& value : split_words(sides[1].substr(equals + 1), " or ")) {
    condition.values.push_back(canonical(condition.referent, value, where));
  }
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  if (!table.contains(condition.option)) table.set({condition.option, "", where});  // names the nearest
  return condition;
}

std::vector<Condition> read_conditions(const std::string& text) {
  std::vector<Condition> conditions;
  for (const std::string& piece : split_list(text, '|')) conditions.push_back(read_condition(piece, "sweep.conditions"));
  const std::vector<std::string> order = conditioned_options(conditions);
  const auto place = [&](const std::string& name) { return std::find(order.begin(), order.end(), name); };
  for (const Condition& condition : conditions) {
    const auto referent = place(condition.referent);
    if (referent != order.end() && referent >= place(condition.option)) {
      fail_input("option sweep.conditions: ", condition.option, " depends on ", condition.referent,
                 ", whose own condition must stand before");
    }
  }
  return conditions;
}

std::vector<std::string> conditioned_options(const std::vector<Condition>& conditions) {
  std::vector<std::string> names;
  for (const Condition& condition : conditions) {
    if (std::find(names.begin(), names.end(), condition.option) == names.end()) names.push_back(condition.option);
  }
  return names;
}

bool holds(const Condition& condition, const OptionTable& table) {
  const std::string found = table.text_of(condition.referent);
  return std::find(condition.values.begin(), condition.values.end(), found) != condition.values.end();
}

bool holds(const std::vector<Condition>& conditions, const std::string& option, const OptionTable& table) {
  return std::all_of(conditions.begin(), conditions.end(), [&](const Condition& condition) {
    return condition.option != option || holds(condition, table);
  });
}

}  // namespace ldmtune::sweep
