#include "model/unet_config.h"

#include "core/error.h"

namespace ldmtune::model {

namespace {

constexpr std::int64_t kTimeIds = 6;

// diffusers' block names; false for the plain block, true for the one with transformers.
std::vector<bool> read_block_types(ConfigReader& config, const std::string& key, const std::string& plain,
                                   const std::string& with_attention, const std::vector<std::string>& fallback) {
  std::vector<bool> attention;
  for (const std::string& type : config.texts(key, fallback)) {
    if (type != plain && type != with_attention) {
      config.refuse(key, cat("only ", plain, " and ", with_attention, " (anything else is not built yet)"));
    }
    attention.push_back(type == with_attention);
  }
  return attention;
}

void expect_levels(const ConfigReader& config, const std::string& key, std::size_t found, std::size_t levels) {
  if (found != levels) config.refuse(key, cat("a list of ", levels, " as down_block_types has"));
}

// The number of heads goes under the name attention_head_dim in every published config.json.
std::vector<std::int64_t> read_heads(ConfigReader& config, std::size_t levels) {
  const auto misnamed = config.integer_per_level("attention_head_dim", 8, levels);
  auto heads = config.integer_per_level("num_attention_heads", 0, levels);
  for (std::size_t i = 0; i < levels; ++i) {
    if (heads[i] == 0) heads[i] = misnamed[i];
  }
  return heads;
}

void read_levels(ConfigReader& config, UNetConfig& unet) {
  const std::string down = "CrossAttnDownBlock2D", up = "CrossAttnUpBlock2D";
  const auto down_attention =
      read_block_types(config, "down_block_types", "DownBlock2D", down, {down, down, down, "DownBlock2D"});
  const auto up_attention = read_block_types(config, "up_block_types", "UpBlock2D", up, {"UpBlock2D", up, up, up});
  const std::size_t count = down_attention.size();
  const auto channels = config.integers("block_out_channels", {320, 640, 1280, 1280});
  expect_levels(config, "up_block_types", up_attention.size(), count);
  expect_levels(config, "block_out_channels", channels.size(), count);
  const auto layers = config.integer_per_level("layers_per_block", 2, count);
  const auto heads = read_heads(config, count);
  const auto transformer_layers = config.integer_per_level("transformer_layers_per_block", 1, count);
  const auto only_cross_attention = config.boolean_per_level("only_cross_attention", false, count);
  for (std::size_t i = 0; i < count; ++i) {
    unet.levels.push_back({.channels = channels[i],
                           .layers = layers[i],
                           .heads = heads[i],
                           .transformer_layers = transformer_layers[i],
                           .down_attention = down_attention[i],
                           .up_attention = up_attention[count - 1 - i],
                           .only_cross_attention = only_cross_attention[i]});
    if (heads[i] > channels[i]) {
      config.refuse("attention_head_dim", cat("at most ", channels[i], " heads, as level ", i, " has channels"));
    }
  }
}

std::int64_t read_sample_size(ConfigReader& config) {
  constexpr std::int64_t kUsual = 64;  // where config.json leaves it out: SD 1's 512 pixels
  const auto sizes = config.integer_per_level("sample_size", kUsual, 2);
  if (sizes[0] != sizes[1]) config.refuse("sample_size", "a square one");
  return sizes[0];
}

std::int64_t read_cross_attention_dim(ConfigReader& config, std::size_t levels) {
  const auto widths = config.integer_per_level("cross_attention_dim", 1280, levels);
  for (const std::int64_t width : widths) {
    if (width != widths.front()) config.refuse("cross_attention_dim", "the same width at every level");
  }
  return widths.front();
}

std::int64_t read_odd_kernel(ConfigReader& config, const std::string& key) {
  const std::int64_t kernel = config.integer(key, 3);
  if (kernel % 2 == 0) config.refuse(key, "an odd kernel size");
  return kernel;
}

// SDXL's text_time: the pooled text embedding and six sinusoids, projected and added to the time embedding.
void read_added_conditioning(ConfigReader& config, UNetConfig& unet) {
  config.only("addition_embed_type", {"text_time"});
  const bool is_added = !config.text("addition_embed_type", "").empty();
  const std::int64_t width = config.integer("addition_time_embed_dim", 0);
  const std::int64_t input = config.integer("projection_class_embeddings_input_dim", 0);
  if (!is_added) {
    config.only("addition_time_embed_dim");
    config.only("projection_class_embeddings_input_dim");
    return;
  }
  if (width == 0) config.refuse("addition_time_embed_dim", "a positive integer, as addition_embed_type is text_time");
  if (input <= kTimeIds * width) {
    config.refuse("projection_class_embeddings_input_dim",
                  cat("more than ", kTimeIds * width, ", the width of ", kTimeIds, " time ids"));
  }
  unet.addition_time_embed_dim = width;
  unet.pooled_width = input - kTimeIds * width;
}

// What other diffusers models ask of this class.
void refuse_what_is_not_built(ConfigReader& config) {
  config.only("mid_block_type", {"UNetMidBlock2DCrossAttn"});
  config.only("class_embed_type");
  config.only("num_class_embeds");
  config.only("class_embeddings_concat", {false});
  config.only("encoder_hid_dim");
  config.only("encoder_hid_dim_type");
  config.only("time_embedding_type", {"positional"});
  config.only("time_embedding_act_fn");
  config.only("timestep_post_act");
  config.only("time_cond_proj_dim");
  config.only("resnet_time_scale_shift", {"default"});
  config.only("resnet_skip_time_act", {false});
  config.only("resnet_out_scale_factor", {1.0});
  config.only("dropout", {0.0});
  config.only("dual_cross_attention", {false});
  config.only("cross_attention_norm");
  config.only("attention_type", {"default"});
  config.only("reverse_transformer_layers_per_block");
  config.ignore("mid_block_only_cross_attention");  // UNetMidBlock2DCrossAttn does not read it
  config.ignore("addition_embed_type_num_heads");   // only with addition_embed_type = text
}

}  // namespace

UNetConfig read_unet_config(const nlohmann::json& json, const std::string& component) {
  ConfigReader config(json, component);
  UNetConfig unet;
  read_levels(config, unet);
  unet.in_channels = config.integer("in_channels", 4);
  unet.out_channels = config.integer("out_channels", 4);
  unet.sample_size = read_sample_size(config);
  unet.center_input_sample = config.boolean("center_input_sample", false);
  unet.cross_attention_dim = read_cross_attention_dim(config, unet.levels.size());
  unet.norm_num_groups = config.integer("norm_num_groups", 32);
  unet.norm_eps = config.number("norm_eps", 1e-5);
  unet.activation = read_activation(config, "act_fn");
  unet.downsample_padding = config.count("downsample_padding", 1);
  if (unet.downsample_padding > 1) config.refuse("downsample_padding", "0 or 1");
  unet.mid_block_scale_factor = config.number("mid_block_scale_factor", 1.0);
  if (!(unet.mid_block_scale_factor > 0)) config.refuse("mid_block_scale_factor", "a number above 0");
  unet.use_linear_projection = config.boolean("use_linear_projection", false);
  unet.upcast_attention = config.boolean("upcast_attention", false);
  unet.flip_sin_to_cos = config.boolean("flip_sin_to_cos", true);
  unet.freq_shift = config.number("freq_shift", 0.0);
  unet.time_embedding_dim = config.integer("time_embedding_dim", 4 * unet.levels.front().channels);
  unet.conv_in_kernel = read_odd_kernel(config, "conv_in_kernel");
  unet.conv_out_kernel = read_odd_kernel(config, "conv_out_kernel");
  read_added_conditioning(config, unet);
  refuse_what_is_not_built(config);
  config.expect_all_known();
  return unet;
}

}  // namespace ldmtune::model
