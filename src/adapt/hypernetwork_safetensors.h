#pragma once
// Hypernetworks as .safetensors: tensors "<width>.<k|v>.linear.<N>.<weight|bias>", and the settings of A1111's .pt under
// the same names as metadata, each value as JSON ("layer_structure": "[1.0,2.0,1.0]").

#include <filesystem>

#include "store/torch_file.h"

namespace ldmtune::adapt {

/// `dict` as A1111's .pt holds it: width -> (state dict of k, of v), then the settings.
void write_hypernetwork_safetensors(const std::filesystem::path& file, const store::PyDict& dict);
/// The same dict again. Errors: InputError naming the file and what is no part of a hypernetwork.
store::PyDict read_hypernetwork_safetensors(const std::filesystem::path& file);

}  // namespace ldmtune::adapt
