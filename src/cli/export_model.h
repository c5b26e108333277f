#pragma once
// Export of whole models: a base with the weights that a checkpoint trained.

#include <filesystem>
#include <string>

#include "model/base_model.h"
#include "model/ldm_file.h"
#include "store/tensor_map.h"
#include "train/checkpoint.h"

namespace ldmtune::cli {

/// UNet and text encoders of the base that the checkpoint was trained on (with what was merged into it), with the
/// trained weights in place; f32, without the VAE. `base` is where it lies now (empty: where it lay then).
/// Errors: InputError if it is not there or another one.
model::BaseModel load_trained_model(const train::CheckpointState& state, const store::TensorMap& parameters,
                                    const std::filesystem::path& checkpoint, const std::filesystem::path& base);

/// "fp32", "fp16" or "bf16". Errors: InputError naming the option.
at::ScalarType parse_weight_type(const std::string& name);

/// Where the base lies that the checkpoint was trained on: `given`, or where it lay then if that is empty.
std::filesystem::path base_of(const train::CheckpointState& state, const std::filesystem::path& given);

/// The whole base with the trained weights in place (f32; networks that nothing changed as stored). Errors: as
/// load_trained_model.
model::BaseParts trained_parts(const train::CheckpointState& state, const store::TensorMap& parameters,
                               const std::filesystem::path& checkpoint, const std::filesystem::path& base);

/// Writes the folder `output` in the diffusers layout: what model_index.json of the base names is copied, components
/// that differ from the base's are written anew in `dtype`. Errors: InputError if the base is no such folder.
void export_diffusers_folder(const train::CheckpointState& state, const store::TensorMap& parameters,
                             const std::filesystem::path& checkpoint, const std::filesystem::path& base,
                             at::ScalarType dtype, const std::filesystem::path& output);

}  // namespace ldmtune::cli
