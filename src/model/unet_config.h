#pragma once
// config.json of a UNet2DConditionModel, read once into plain numbers: one entry a level where the file allows lists.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/layers.h"

namespace ldmtune::model {

struct UNetConfig {
  std::int64_t in_channels = 4, out_channels = 4;
  std::int64_t sample_size = 64;
  bool center_input_sample = false;

  struct Level {
    std::int64_t channels = 0;
    std::int64_t layers = 2;              ///< resnets of the down block; the up block has one more
    std::int64_t heads = 8;               ///< config.json calls it attention_head_dim
    std::int64_t transformer_layers = 1;  ///< transformer blocks after each resnet
    bool down_attention = false, up_attention = false;
    bool only_cross_attention = false;
  };
  std::vector<Level> levels;  ///< finest first

  std::int64_t cross_attention_dim = 1280;
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  Activation activation = Activation::silu;
  std::int64_t downsample_padding = 1;
  double mid_block_scale_factor = 1.0;
  bool use_linear_projection = false;
  bool upcast_attention = false;
  bool flip_sin_to_cos = true;
  double freq_shift = 0.0;
  std::int64_t time_embedding_dim = 0;  ///< width of the time embedding
  std::int64_t conv_in_kernel = 3, conv_out_kernel = 3;

  /// SDXL (addition_embed_type = text_time): width of the sinusoids of each time id; 0: the UNet takes none.
  std::int64_t addition_time_embed_dim = 0;
  std::int64_t pooled_width = 0;  ///< of the pooled text embedding that is added with them
};

/// `component` names the model for errors. Absent keys take diffusers' defaults.
/// Errors: InputError naming key and value of anything malformed or not built.
UNetConfig read_unet_config(const nlohmann::json& config, const std::string& component);

}  // namespace ldmtune::model
