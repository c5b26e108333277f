#pragma once
// Trials that train together on one frozen base: their micro-batches go through the model in one forward.

#include <cstddef>
#include <exception>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "core/error.h"
#include "train/milestones.h"

namespace ldmtune::train {

/// What became of one of the trials given to run_pack.
using OnTrialEnd = std::function<void(std::size_t trial, const std::exception* error)>;

/// Trains all of them, at most `width` at a time; a trial that ends or fails leaves its place to the next one. All have
/// one pack_key (train/setup.h). A trial's bits depend on `width`, not on its place or on its pack-mates.
/// A trial that pauses at `milestones` ends there. Returns done, or interrupted after each active trial wrote a
/// checkpoint. A failing trial ends alone, with on_end told why; without on_end its error ends the pack. Errors:
/// InputError if the configurations may not share a pack.
ExitCode run_pack(const std::vector<TrainConfig>& configs, std::size_t width, comm::Communicator& comm,
                  const OnTrialEnd& on_end = nullptr, const Milestones& milestones = {});

}  // namespace ldmtune::train
