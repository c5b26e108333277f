#pragma once
// Synchronous successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
// Optimization", arXiv 1502.07943): all trials train to the first rung's update and are measured on held-out images,
// the best 1/factor of the settings go on to the next rung, and so on; the last ones train to their end.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sweep/grid.h"
#include "train/milestones.h"

namespace ldmtune::sweep {

/// A stage of the sweep. After the last one nothing is judged.
struct Rung {
  std::int64_t step = 0;     ///< its trials train up to this update; of the last one: as long as the longest of them
  std::size_t settings = 0;  ///< that reach it; fewer where trials fail
  std::size_t trials = 0;    ///< with all replicates of these settings
};

/// Updates halving_min_steps x factor^k below the longest training while several settings are left, then that itself;
/// of n settings floor(n / factor), at least 1, go on. Empty without sweep.halving_factor. Errors: InputError naming an
/// option of [sweep], or train.num_train_epochs or train.max_tflops, which hide how many updates a trial has.
std::vector<Rung> plan_rungs(const Grid& grid);

/// At most this many packs of `width` hold `trials` trials of the grid, whichever go on.
std::size_t most_packs(const Grid& grid, std::size_t trials, std::size_t width);

/// Lines for `sweep plan`: the rungs, trials and TFLOP in each, and what is saved; `tflops` of all trials to their end.
/// `width` of the packs, if any, adds the number of packs.
std::string rungs_table(const Grid& grid, double tflops, std::optional<std::size_t> width = std::nullopt);

/// A trial at a rung: its held-out loss there, none if it failed before.
struct Candidate {
  const Trial* trial = nullptr;
  std::optional<double> loss;
};
/// The trials of the `keep` settings with the lowest mean loss over their replicates, in the order given. A setting
/// loses as a whole where a replicate failed or its loss is not finite; ties go to the setting with the lowest trial
/// id.
std::vector<const Trial*> survivors(const std::vector<Candidate>& candidates, std::size_t keep);

/// Trials that train in a rung, to its update (Grid::pause_step; 0 in the last one); none if it is judged already. For
/// rungs before it that are not judged yet, judges: reads the losses, writes <sweep.output>/halving/rung-R.json, and
/// marks trials that do not go on in their result.json (status "stopped"). What is written stays while rungs and
/// candidates are the same, whatever becomes of a trial later. All ranks call it. Errors: InputError for no such rung,
/// or a trial that went past a rung without being measured there; Error where one has neither reached its rung nor
/// failed.
Grid rung_grid(const Grid& grid, std::size_t rung, comm::Communicator& comm);

/// Where the trials of a rung are measured and pause.
train::Milestones milestones_of(const Grid& grid, std::size_t rung);

/// Trains the trials of one rung: see run_trials and run_packs.
using RungTrainer = std::function<ExitCode(const Grid& part, const train::Milestones& milestones)>;

/// One rung after another; see run_trials for what comes back. Run again it goes on where it was.
ExitCode run_rungs(const Grid& grid, comm::Communicator& comm, const RungTrainer& train_rung);

}  // namespace ldmtune::sweep
