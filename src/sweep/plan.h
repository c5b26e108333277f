#pragma once
// What a sweep will do, before anything runs.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "optim/arena.h"
#include "sweep/grid.h"

namespace ldmtune::sweep {

/// Widths of the contexts that the base's to_k and to_v read, from the UNet's configuration alone, so that a plan loads
/// no weights; equal to UNet2DConditionModel::context_widths(). Errors: InputError naming the file or key.
std::set<std::int64_t> base_context_widths(const std::filesystem::path& base);

/// Parameters that a configuration trains, from the base's configuration and headers alone. Errors: as below.
std::vector<optim::ParameterSpec> planned_parameters(const TrainConfig& config);

/// How many numbers these are. Errors: InputError for a method that is not built, and what the method's
/// options refuse.
std::int64_t trainable_parameters(const TrainConfig& config);

/// The same of a hypernetwork, by the width of the context its networks read.
std::map<std::int64_t, double> parameters_by_width(const TrainConfig& config);

/// "300", or "2 epochs" where epochs decide.
std::string training_length(const TrainConfig& config);

/// Finds bad input of any of the trials before the first one runs: base, dataset, structures, schedules, batch sizes
/// for `ranks` ranks. Errors: InputError naming the trial and what is wrong.
void check_trials(const std::vector<const Trial*>& trials, int ranks);

/// Finds trials that cannot train on `ranks` ranks. Errors: InputError naming the trial with the fewest leaves and the
/// numbers of ranks that would do for it, and so for all.
void check_ranks(const Grid& grid, int ranks);

/// One line a trial: number, id, varied options ("–" where a condition leaves one out), seed, trainable parameters,
/// steps, TFLOP, estimated memory of each of `ranks` ranks, and time on one; then the sums, and the rungs of successive
/// halving. Times are estimates: see estimate_speed.
std::string plan_table(const Grid& grid, int ranks = 1);

/// Operations of all trials to their end, in 10^12. Errors: InputError naming the trial.
double planned_tflops(const Grid& grid);

/// Left-aligned columns with two blanks between them, the first row underlined.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

/// Writes <sweep.output>/sweep.json: what the analysis reads to know trials, folders and options, and how many trials
/// train at a time; without `pack` what was written of that before stays.
void write_plan(const Grid& grid, std::optional<std::size_t> pack = std::nullopt);

}  // namespace ldmtune::sweep
