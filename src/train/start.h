#pragma once
// Where a training starts, if not from random numbers or the base's own weights: the method's init_from.

#include <filesystem>
#include <string>

#include "comm/communicator.h"
#include "core/config.h"
#include "model/base_model.h"
#include "train/trial.h"

namespace ldmtune::train {

/// hypernetwork.init_from, lora.init_from or dreambooth.init_from, whichever config.method has; else empty.
std::filesystem::path init_from(const TrainConfig& config);

/// Puts the weights that init_from names into a trial at step 0; its optimizer and averages begin there. `init_from`
/// may be a file, a checkpoint or a run folder (its newest checkpoint), with dreambooth a whole model too. Returns the
/// sha256 of what was read: the file's, or of a whole model's UNet and text encoders. Errors: InputError naming the
/// option or file and what does not fit.
std::string start_from_file(const TrainConfig& config, const model::BaseModel& base, Trial& trial,
                            comm::Communicator& comm);

}  // namespace ldmtune::train
