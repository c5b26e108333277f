#pragma once
// What a trial will take, counted from the base's configuration before anything runs: floating-point operations and
// memory. train/training_flops.h says what is counted of training; of validation it is the UNet and what was trained.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/unet_config.h"
#include "sweep/grid.h"
#include "train/training_flops.h"

namespace ldmtune::sweep {

/// What the dataset says that a cost depends on; with unreadable or missing data, the base's own size and no images.
struct DataSize {
  std::int64_t latent_height = 0, latent_width = 0;  ///< of the largest bucket
  std::vector<std::int64_t> training_of;             ///< by dataset
  std::int64_t heldout = 0, test = 0, adjacent = 0;
  std::vector<train::LatentShare> training_sizes = {};  ///< empty: all as large as the largest
};
DataSize data_size(const TrainConfig& config, const model::UNetConfig& unet);

struct TrialCost {
  std::int64_t updates = 0;
  double training_flops = 0;
  double validation_flops = 0;
  double bytes = 0;  ///< of a rank's training process (sweep/memory_plan.h)

  double tflops() const { return (training_flops + validation_flops) * 1e-12; }
};
/// Errors: InputError naming the base's file.
TrialCost trial_cost(const TrainConfig& config, const DataSize& data, const model::UNetConfig& unet, int ranks = 1);

/// unet/config.json of a base. Errors: InputError.
model::UNetConfig base_unet_config(const std::filesystem::path& base);

/// Operations a second and rank, and where the number comes from.
struct Speed {
  double flops_per_s = 0;
  std::string source;
};
/// sweep.tflops_per_s; else what finished trials of this sweep reached; else a measurement of this machine (0.2 s).
Speed estimate_speed(const Grid& grid);

}  // namespace ldmtune::sweep
