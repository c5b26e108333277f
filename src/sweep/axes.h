#pragma once
// What varies together: alternatives of one option, zipped options, random draws, replicates. The grid is the product
// of the axes.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/options.h"
#include "sweep/conditions.h"

namespace ldmtune::sweep {

struct SweepConfig;

/// An option with more than one value.
struct VariedOption {
  std::string name;
  std::vector<std::string> values;  ///< as OptionTable::set takes them
  std::string where;                ///< for errors
  bool drawn = false;               ///< values are random draws
  /// Where each value counts; empty where all count everywhere.
  std::vector<std::optional<Condition>> conditions = {};
};

/// Options that change together: values[i] is the i-th choice, one text an option.
struct Axis {
  std::vector<std::string> options;
  std::vector<std::vector<std::string>> values;
};

/// The values that a setting gives: `a | b`, `a if option = value | b` (guards.h), or draws such as `log_uniform(1e-4, 1e-2)`, `uniform(a, b)`,
/// `integer(a, b)` (both ends included) and `choice(a; b; c)`; lists of prompts (sample.prompts, class_prompt, adjacent_prompts) are always one value. One value: the
/// option does not vary. Draw i of an option is a pure function of (sweep.draw_seed, the option's name, i), so that
/// more draws leave the earlier ones as they are; numbers are rounded to three significant digits. Errors: InputError
/// naming option and place (bounds, a draw without sweep.draws).
VariedOption values_of(const OptionSetting& setting, const SweepConfig& config);

/// One axis an option in the order given, but options of a `sweep.zip` group (`a, b | c, d`) and all drawn options
/// share one, at the place of their first. Errors: InputError naming sweep.zip (an option that does not vary, of
/// another length, or in two groups).
std::vector<Axis> make_axes(const std::vector<VariedOption>& varied, const SweepConfig& config);

/// Replicates: sweep.seeds over train.seed and sweep.subset_seeds over data.subset_seed, crossed or zipped
/// (sweep.replicates). Errors: InputError if such an option varies in the settings too, or on unequal lengths to zip.
std::vector<Axis> replicate_axes(const SweepConfig& config, const std::vector<VariedOption>& varied);

/// Whole numbers of "0,1,2"; empty: none. Errors: InputError naming `option` (not a number, repeated).
std::vector<std::uint64_t> seed_list(const std::string& text, const std::string& option = "sweep.seeds");

}  // namespace ldmtune::sweep
