#pragma once
// Datasets beside the one that trains, drawn by the untouched base or brought by the user: class images of prior
// preservation, and adjacent concepts.

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/latent_dataset.h"
#include "model/base_model.h"

namespace ldmtune::train {

/// `unmerged_sha256` below: the base's hash before base.merge, which datasets note.

/// The dataset dreambooth.class_data, drawn where it is not there yet (a collective); null without prior preservation.
/// Errors: as open_or_draw (train/drawn_dataset.h).
std::unique_ptr<data::LatentDataset> open_class_data(const TrainConfig& config, const model::BaseModel& base,
                                                     const std::string& unmerged_sha256, comm::Communicator& comm);

/// The dataset validation.adjacent, drawn where it is not there yet and validation.adjacent_prompts says what; null
/// where none is named. What is drawn is its validation split, from other noise than class images.
/// Errors: as open_or_draw, and options that need another one.
std::unique_ptr<data::LatentDataset> open_adjacent_data(const TrainConfig& config, const model::BaseModel& base,
                                                        const std::string& unmerged_sha256, comm::Communicator& comm);

}  // namespace ldmtune::train
