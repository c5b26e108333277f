#pragma once
// Encoder and decoder of AutoencoderKL, and its config.json.

#include <ATen/ATen.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/layers.h"
#include "model/resnet_block.h"

namespace ldmtune::model {

struct VAEConfig {
  std::int64_t in_channels = 3, out_channels = 3, latent_channels = 4;
  std::vector<std::int64_t> block_out_channels;  ///< finest level first
  std::int64_t layers_per_block = 1;
  std::int64_t norm_num_groups = 32;
  Activation activation = Activation::silu;
  double scaling_factor = 0.18215;
  bool use_quant_conv = true, use_post_quant_conv = true;
  bool mid_block_add_attention = true;
};

/// `component` names the model for errors. Absent keys take diffusers' defaults.
/// Errors: InputError naming key and value of anything malformed or not built.
VAEConfig read_vae_config(const nlohmann::json& config, const std::string& component);

/// Resnet, one-head attention over all positions (optional), resnet.
class VAEMidBlock {
 public:
  VAEMidBlock(Weights& weights, const std::string& name, const VAEConfig& config);
  at::Tensor forward(const at::Tensor& sample) const;

 private:
  at::Tensor attend(const at::Tensor& sample) const;

  ResnetBlock2D first_;
  std::optional<GroupNorm> group_norm_;
  std::optional<Attention> attention_;
  ResnetBlock2D last_;
};

class Encoder {
 public:
  Encoder(Weights& weights, const VAEConfig& config);
  /// image (B, in_channels, H, W) of any float dtype -> (B, 2 * latent_channels, h, w): mean and log variance.
  at::Tensor forward(const at::Tensor& image) const;

 private:
  struct Level {
    std::vector<ResnetBlock2D> resnets;
    std::optional<Downsample2D> downsampler;
  };
  Conv2d conv_in_;
  std::vector<Level> levels_;
  VAEMidBlock mid_block_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

class Decoder {
 public:
  Decoder(Weights& weights, const VAEConfig& config);
  /// latent (B, latent_channels, h, w) -> (B, out_channels, H, W).
  at::Tensor forward(const at::Tensor& latent) const;
  at::ScalarType dtype() const { return conv_in_.dtype(); }

 private:
  struct Level {
    std::vector<ResnetBlock2D> resnets;
    std::optional<Upsample2D> upsampler;
  };
  Conv2d conv_in_;
  VAEMidBlock mid_block_;
  std::vector<Level> levels_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace ldmtune::model
