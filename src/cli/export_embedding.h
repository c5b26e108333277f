#pragma once
// Export of what textual inversion trained.

#include <filesystem>
#include <string>

#include "store/tensor_map.h"
#include "train/checkpoint.h"

namespace ldmtune::cli {

/// Writes the words of a checkpoint as `format` (a1111, diffusers or kohya): all of them, or the one named `token`.
/// Errors: InputError for an unknown format or token, several words in a format that holds one, an extension that the
/// format has not, parameters that state.json does not describe.
void export_embeddings(const train::CheckpointState& state, const store::TensorMap& parameters,
                       const std::filesystem::path& checkpoint, const std::string& format, const std::string& token,
                       const std::filesystem::path& output);

}  // namespace ldmtune::cli
