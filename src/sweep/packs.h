#pragma once
// Packs: trials of a sweep that train together on one frozen base (train/pack.h).

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sweep/grid.h"
#include "train/pack.h"

namespace ldmtune::sweep {

/// Trials that may share a pack (one train::pack_key), in the order of the grid, cut into packs of at most `width`:
/// what the elements of a Slurm array train.
std::vector<std::vector<const Trial*>> plan_packs(const Grid& grid, std::size_t width);

/// How a pack is trained: train::run_pack but in tests.
using PackTrainer = std::function<ExitCode(const std::vector<TrainConfig>&, std::size_t width, comm::Communicator&,
                                           const train::OnTrialEnd&)>;

/// Trains all trials, `width` at a time; one that ends leaves its place to the next. With `only` the trials of that
/// pack of plan_packs alone. Trials that are done are not run again, failed ones are recorded and spare the others. All
/// ranks call it. `after_each` is called on rank 0 after each trial. Returns done, interrupted, or failed if a trial
/// failed. Errors: InputError if `only` is no pack.
ExitCode run_packs(const Grid& grid, std::size_t width, comm::Communicator& comm, const PackTrainer& trainer,
                   std::optional<std::int64_t> only = std::nullopt, const std::function<void()>& after_each = nullptr);

/// One line a pack: number, trials, the options they share.
std::string packs_table(const Grid& grid, std::size_t width);

}  // namespace ldmtune::sweep
