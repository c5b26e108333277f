#pragma once
// A whole training run: from configuration to run folder.

#include <filesystem>

#include "comm/communicator.h"
#include "core/config.h"
#include "core/error.h"

namespace ldmtune::train {

/// Trains as configured and writes the run folder (see README, "Run folder"): result.json when done, the last
/// checkpoint in checkpoints/, per-image held-out losses in validation_images.csv. Returns done, or interrupted after a
/// checkpoint on stop_after, SIGTERM, SIGINT or SIGUSR2. Errors: InputError before anything is written; Error for NaN
/// (with the last good checkpoint kept) and failed writes.
ExitCode run(const TrainConfig& config, comm::Communicator& comm);

/// Newest complete checkpoint of a run folder; empty if there is none.
std::filesystem::path latest_checkpoint(const std::filesystem::path& run_folder);

}  // namespace ldmtune::train
