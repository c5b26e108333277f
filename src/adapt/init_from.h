#pragma once
// Starting a training from a file's weights: hypernetwork.init_from, lora.init_from and dreambooth.init_from (textual
// inversion's is textual_inversion.initial_embedding). A file must have exactly what the run trains; what differs is
// refused with the options that would fit.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "adapt/dreambooth.h"
#include "adapt/hypernetwork.h"
#include "adapt/lora.h"

namespace ldmtune::adapt {

/// The file's weights into the arena. Its dropout may be another, and its networks of widths that the base has not are
/// left out with a warning. Errors: InputError naming the option, both values and the options to give.
void start_from_hypernetwork(const Hypernetwork& network, const optim::Arena& arena, const model::BaseModel& base,
                             const std::filesystem::path& file);

/// The file's factors into the arena. Errors: InputError where rank, alpha or layers differ.
void start_from_lora(const Lora& lora, const optim::Arena& arena, const model::BaseModel& base,
                     const std::filesystem::path& file);

/// Weights named "<component>.<key>" into the arena; those that do not train must be the base's own (but for
/// rounding), since nothing would keep them. `source` names them for errors: InputError for a weight that the base has
/// not, has in another shape, or that does not train and differs.
void start_from_weights(const Dreambooth& dreambooth, const optim::Arena& arena, const model::BaseModel& base,
                        const store::TensorMap& weights, const std::string& source);

/// Options and their values, as they stand in a job file.
using JobOptions = std::vector<std::pair<std::string, std::string>>;
/// Those that describe such a network, and such factors among a base's layers.
JobOptions job_options(const HypernetworkSpec& spec);
JobOptions job_options(const Lora& lora, const std::vector<LoraSite>& sites);

}  // namespace ldmtune::adapt
