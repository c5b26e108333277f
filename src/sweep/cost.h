#pragma once
// What a trial will take, counted from the base's configuration before anything runs: floating-point operations and
// memory. A multiplication and an addition are two operations. Counted: the UNet (convolutions, matrices, attention)
// and the trained networks; not counted: norms, activations, the text encoder, the VAE.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/unet_config.h"
#include "sweep/grid.h"

namespace ldmtune::sweep {

/// One forward of the UNet for one sample.
struct UNetCost {
  double parameters = 0;
  double flops = 0;            ///< all operations
  double attention_flops = 0;  ///< those between queries, keys and values, whose gradient costs twice as much
  double saved_elements = 0;   ///< what a backward pass keeps, in numbers
  /// Tokens that to_k and to_v read, by their width: summed over layers, but those of the text once.
  std::map<std::int64_t, double> read_tokens;
};
UNetCost unet_cost(const model::UNetConfig& config, std::int64_t height, std::int64_t width, std::int64_t text_tokens);

/// What the dataset says that a cost depends on; with unreadable or missing data, the base's own size and no images.
struct DataSize {
  std::int64_t latent_height = 0, latent_width = 0;  ///< of the largest bucket
  std::vector<std::int64_t> training_of;             ///< by dataset
  std::int64_t heldout = 0, test = 0, adjacent = 0;
};
DataSize data_size(const TrainConfig& config, const model::UNetConfig& unet);

struct TrialCost {
  std::int64_t updates = 0;
  double training_flops = 0;
  double validation_flops = 0;
  double bytes = 0;  ///< of the training process of a run on one rank: base, arena, optimizer, what a micro-batch keeps

  double tflops() const { return (training_flops + validation_flops) * 1e-12; }
};
/// `trained` parameters. Errors: InputError naming the base's file.
TrialCost trial_cost(const TrainConfig& config, std::int64_t trained, const DataSize& data,
                     const model::UNetConfig& unet);

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
