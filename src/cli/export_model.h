#pragma once
// Export of whole models: a base with the weights that a checkpoint trained.

#include <filesystem>
#include <string>

#include "core/config.h"
#include "model/ldm_file.h"
#include "store/tensor_map.h"
#include "train/checkpoint.h"

namespace ldmtune::cli {

/// Where the base lies that a checkpoint was trained on, if not where it lay then (each empty: there).
struct BasePlace {
  std::filesystem::path base;
  BaseConfig options{};
};

/// Writes the base that the checkpoint was trained on (with what was merged into it, and the noise schedule that it was
/// trained with), the trained weights in place, as "ldm" or "diffusers" (cli/export_base.h). `dtype` "": fp32,
/// as they were trained. Errors: InputError naming option or file, also where the base is not there
/// or another one.
void export_model(const train::CheckpointState& state, const store::TensorMap& parameters,
                  const std::filesystem::path& checkpoint, const BasePlace& place, const std::string& format,
                  const std::string& dtype, const std::filesystem::path& output);

}  // namespace ldmtune::cli
