#pragma once
// ldmtune train --plan: what a run would take, before anything is loaded or written.

#include "comm/communicator.h"
#include "core/config.h"

namespace ldmtune::cli {

/// Prints trainable parameters by group and memory by item for each of `ranks`, and whether the machine has as much.
/// Reads configuration, weight files' headers and the dataset's index only. Errors: InputError as of train.
void print_train_plan(const TrainConfig& config, int ranks, comm::Communicator& comm);

}  // namespace ldmtune::cli
