#pragma once
// Exporting a LoRA's checkpoint.

#include <filesystem>
#include <string>

#include "store/tensor_map.h"
#include "train/checkpoint.h"

namespace ldmtune::cli {

/// Writes a checkpoint's factors in the layout `format` (diffusers or kohya) under `name` (empty: the one trained
/// under). Errors: InputError for a format or file name that LoRAs do not have, or a checkpoint that holds something
/// else.
void export_lora(const train::CheckpointState& state, const store::TensorMap& parameters,
                 const std::filesystem::path& checkpoint, const std::string& format, const std::string& name,
                 const std::filesystem::path& output);

}  // namespace ldmtune::cli
