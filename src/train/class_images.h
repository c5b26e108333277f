#pragma once
// Prior preservation's second dataset: images of the class, drawn by the untouched base or brought by the user.

#include <memory>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/latent_dataset.h"
#include "model/base_model.h"
#include "pipeline/text.h"

namespace ldmtune::train {

/// The dataset dreambooth.class_data; null without prior preservation. One that is not there yet is made, a collective:
/// the base draws num_class_images pictures of the class prompts in turn (settings of [sample]; picture i starts from
/// index i), the ranks sharing them, into CLASS_DATA.images, which are then encoded as `prepare` does.
/// Errors: InputError naming the option: nothing to draw from, too few images, captions that are no class prompt.
std::unique_ptr<data::LatentDataset> open_class_data(const TrainConfig& config, const model::BaseModel& base,
                                                     pipeline::PromptEncoder& prompts, comm::Communicator& comm);

}  // namespace ldmtune::train
