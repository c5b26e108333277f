#pragma once
// Counted operations of an update: what a training budget (train.max_tflops) is spent on, and what sweeps plan with.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/config.h"
#include "model/base_model.h"
#include "model/network_cost.h"
#include "model/unet_config.h"
#include "optim/arena.h"
#include "store/latent_part.h"

namespace ldmtune::train {

/// What a base's operations follow from.
struct BaseShape {
  model::UNetConfig unet;
  std::vector<model::TextEncoderShape> text_encoders;  ///< with all their layers
  std::int64_t text_length = 77;                       ///< tokens of a chunk

  std::int64_t text_tokens(const CaptionConfig& caption) const;  ///< of a padded prompt, as `UNet` reads them
};
BaseShape shape_of(const model::BaseModel& base);
/// The same from the configurations of a base, folder or single file, so that a plan loads no weights. Errors:
/// InputError naming the file.
BaseShape read_base_shape(const std::filesystem::path& base);

/// Latents of one size among those that train.
struct LatentShare {
  std::int64_t height = 0, width = 0;
  double samples = 0;
};

/// Sizes of the training split of a dataset (data::LatentDataset or data::DatasetMix), whatever subset of it trains, so
/// that replicates over subsets have equal budgets.
template <class Dataset>
std::vector<LatentShare> training_sizes(const Dataset& dataset) {
  std::vector<LatentShare> sizes;
  for (const auto& bucket : dataset.by_bucket(store::Split::train)) {
    if (bucket.empty()) continue;
    const at::Tensor latent = dataset.latent(bucket.front()).mean;  // (C, h, w)
    sizes.push_back({latent.size(1), latent.size(2), static_cast<double>(bucket.size())});
  }
  return sizes;
}

/// Operations of one forward of what trains beside the base, for one sample. `trained`: its parameters.
double adapter_flops(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained,
                     const BaseShape& shape, std::int64_t height, std::int64_t width);

/// Operations of an update over all ranks, on average over the sizes of what trains: forward, gradients of inputs where
/// something before them trains, gradients of the weights that train; class images count as the concept's, the text
/// encoder where it is part of the step, what gradient checkpointing computes again. Equal to torch's flop counter on
/// diffusers' models within 1% (tests/parity/test_flops.py). The optimizer is not counted.
double update_flops(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained, const BaseShape& shape,
                    const std::vector<LatentShare>& sizes);

/// The updates that train.max_tflops, above 0, pays for. Errors: InputError naming the option where that is not one.
std::int64_t updates_within_budget(const RunConfig& config, double update_flops);

}  // namespace ldmtune::train
