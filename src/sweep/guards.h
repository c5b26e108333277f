#pragma once
// Alternatives that carry a condition of their own: `(1e-3 | 3e-3) if method = lora | 1e-2 if method = hypernetwork`.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "core/options.h"
#include "sweep/conditions.h"

namespace ldmtune::sweep {

/// One alternative, and where it counts (everywhere without a condition).
struct GuardedValue {
  std::string text;  ///< quoted as OptionTable::set takes it
  std::optional<Condition> condition;
};

/// The alternatives of a setting of which at least one has a condition; empty for all other settings. Parentheses put
/// several before one `if`; quoted text is never a condition. Errors: InputError naming option and place (an unknown
/// option or value behind `if`, a random draw before it).
std::vector<GuardedValue> guarded_values(const OptionSetting& setting);

/// What is to be done with one alternative of an option in one combination of the grid.
enum class Choice {
  set,      ///< it counts here
  inactive, ///< none of the option's alternatives counts here: the option stands at its default
  skip      ///< another alternative stands for this combination
};
Choice choose(const std::vector<std::optional<Condition>>& conditions, std::size_t chosen, const OptionTable& table);

}  // namespace ldmtune::sweep
