#pragma once
// "This option counts only where that one has such a value": what does not hold is left at its default and is not
// varied.

#include <string>
#include <vector>

#include "core/options.h"

namespace ldmtune::sweep {

/// `option if referent = value or value`.
struct Condition {
  std::string option, referent;
  std::vector<std::string> values;  ///< as OptionTable::text_of prints them
};

/// Reads one `a if b = c or d`. Errors: InputError naming `where` (syntax, unknown option or value).
Condition read_condition(const std::string& text, const std::string& where);

/// Reads `a if b = c or d | e if f = g`. Several conditions of one option must all hold.
/// Errors: InputError naming sweep.conditions (syntax, unknown option or value, a referent that is itself conditioned
/// further on).
std::vector<Condition> read_conditions(const std::string& text);

/// The names that `conditions` are about, in their order.
std::vector<std::string> conditioned_options(const std::vector<Condition>& conditions);

/// Whether what `table` holds now meets the condition.
bool holds(const Condition& condition, const OptionTable& table);

/// Whether all conditions of `option` hold for what `table` holds now.
bool holds(const std::vector<Condition>& conditions, const std::string& option, const OptionTable& table);

}  // namespace ldmtune::sweep
