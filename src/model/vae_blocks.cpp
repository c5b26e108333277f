#include "model/vae_blocks.h"

#include "core/error.h"

namespace ldmtune::model {

namespace {

constexpr double kNormEps = 1e-6;  // config.json has no say in it

ResnetOptions resnet_options(const VAEConfig& config, std::int64_t in, std::int64_t out) {
  return {.in_channels = in,
          .out_channels = out,
          .time_channels = 0,
          .groups = config.norm_num_groups,
          .eps = kNormEps,
          .activation = config.activation,
          .output_scale_factor = 1.0};
}

std::string numbered(const std::string& name, std::size_t index) { return name + "." + std::to_string(index); }

void expect_blocks(ConfigReader& config, const std::string& key, const std::string& type, std::size_t levels) {
  const auto types = config.texts(key, {type});
  if (types.size() != levels) config.refuse(key, cat("a list of ", levels, " as block_out_channels has"));
  for (const std::string& each : types) {
    if (each != type) config.refuse(key, cat("only ", type, " (anything else is not built yet)"));
  }
}

const at::Tensor kNoTime;

}  // namespace

VAEConfig read_vae_config(const nlohmann::json& json, const std::string& component) {
  ConfigReader config(json, component);
  VAEConfig vae;
  vae.in_channels = config.integer("in_channels", 3);
  vae.out_channels = config.integer("out_channels", 3);
  vae.latent_channels = config.integer("latent_channels", 4);
  vae.block_out_channels = config.integers("block_out_channels", {64});
  expect_blocks(config, "down_block_types", "DownEncoderBlock2D", vae.block_out_channels.size());
  expect_blocks(config, "up_block_types", "UpDecoderBlock2D", vae.block_out_channels.size());
  vae.layers_per_block = config.integer("layers_per_block", 1);
  vae.norm_num_groups = config.integer("norm_num_groups", 32);
  vae.activation = read_activation(config, "act_fn");
  vae.scaling_factor = config.number("scaling_factor", 0.18215);
  if (!(vae.scaling_factor > 0)) config.refuse("scaling_factor", "a number above 0");
  vae.use_quant_conv = config.boolean("use_quant_conv", true);
  vae.use_post_quant_conv = config.boolean("use_post_quant_conv", true);
  vae.mid_block_add_attention = config.boolean("mid_block_add_attention", true);
  config.only("shift_factor");
  config.only("latents_mean");
  config.only("latents_std");
  config.ignore("sample_size");   // only where images are tiled
  config.ignore("force_upcast");  // whoever runs the model chooses its dtype
  config.expect_all_known();
  return vae;
}

VAEMidBlock::VAEMidBlock(Weights& weights, const std::string& name, const VAEConfig& config)
    : first_(weights, name + ".resnets.0",
             resnet_options(config, config.block_out_channels.back(), config.block_out_channels.back())),
      last_(weights, name + ".resnets.1",
            resnet_options(config, config.block_out_channels.back(), config.block_out_channels.back())) {
  if (!config.mid_block_add_attention) return;
  const std::int64_t channels = config.block_out_channels.back();
  const std::string attention = name + ".attentions.0";
  group_norm_.emplace(weights, attention + ".group_norm", config.norm_num_groups, channels, kNormEps);
  attention_.emplace(weights, AttentionSite{attention, 0, false},
                     AttentionOptions{.query_width = channels,
                                      .context_width = channels,
                                      .heads = 1,
                                      .head_width = channels,
                                      .bias = Linear::Bias::yes,
                                      .upcast = false});
}

at::Tensor VAEMidBlock::attend(const at::Tensor& sample) const {
  const at::Tensor tokens = group_norm_->forward(sample).flatten(2).transpose(1, 2);
  const at::Tensor attended = attention_->forward(tokens, tokens, nullptr).transpose(1, 2);
  return (sample + attended.unflatten(2, {sample.size(2), sample.size(3)})).contiguous();
}

at::Tensor VAEMidBlock::forward(const at::Tensor& sample) const {
  const at::Tensor hidden = first_.forward(sample, kNoTime);
  return last_.forward(attention_ ? attend(hidden) : hidden, kNoTime);
}

Encoder::Encoder(Weights& weights, const VAEConfig& config)
    : conv_in_(weights, "encoder.conv_in", config.in_channels, config.block_out_channels.front()),
      mid_block_(weights, "encoder.mid_block", config),
      conv_norm_out_(weights, "encoder.conv_norm_out", config.norm_num_groups, config.block_out_channels.back(),
                     kNormEps),
      conv_out_(weights, "encoder.conv_out", config.block_out_channels.back(), 2 * config.latent_channels) {
  std::int64_t in = config.block_out_channels.front();
  for (std::size_t i = 0; i < config.block_out_channels.size(); ++i) {
    const std::int64_t out = config.block_out_channels[i];
    const std::string name = numbered("encoder.down_blocks", i);
    Level& level = levels_.emplace_back();
    for (std::int64_t layer = 0; layer < config.layers_per_block; ++layer) {
      level.resnets.emplace_back(weights, numbered(name + ".resnets", layer), resnet_options(config, in, out));
      in = out;
    }
    if (i + 1 < config.block_out_channels.size()) {
      level.downsampler.emplace(weights, name + ".downsamplers.0", out, /*padding=*/0);
    }
  }
}

at::Tensor Encoder::forward(const at::Tensor& image) const {
  at::Tensor hidden = conv_in_.forward(image.to(conv_in_.dtype()).contiguous());
  for (const Level& level : levels_) {
    for (const ResnetBlock2D& resnet : level.resnets) hidden = resnet.forward(hidden, kNoTime);
    if (level.downsampler) hidden = level.downsampler->forward(hidden);
  }
  return conv_out_.forward(conv_norm_out_.forward(mid_block_.forward(hidden), Activation::silu));
}

Decoder::Decoder(Weights& weights, const VAEConfig& config)
    : conv_in_(weights, "decoder.conv_in", config.latent_channels, config.block_out_channels.back()),
      mid_block_(weights, "decoder.mid_block", config),
      conv_norm_out_(weights, "decoder.conv_norm_out", config.norm_num_groups, config.block_out_channels.front(),
                     kNormEps),
      conv_out_(weights, "decoder.conv_out", config.block_out_channels.front(), config.out_channels) {
  std::int64_t in = config.block_out_channels.back();
  for (std::size_t i = config.block_out_channels.size(); i-- > 0;) {
    const std::int64_t out = config.block_out_channels[i];
    const std::string name = numbered("decoder.up_blocks", config.block_out_channels.size() - 1 - i);
    Level& level = levels_.emplace_back();
    for (std::int64_t layer = 0; layer <= config.layers_per_block; ++layer) {
      level.resnets.emplace_back(weights, numbered(name + ".resnets", layer), resnet_options(config, in, out));
      in = out;
    }
    if (i > 0) level.upsampler.emplace(weights, name + ".upsamplers.0", out);
  }
}

at::Tensor Decoder::forward(const at::Tensor& latent) const {
  at::Tensor hidden = mid_block_.forward(conv_in_.forward(latent.contiguous()));
  for (const Level& level : levels_) {
    for (const ResnetBlock2D& resnet : level.resnets) hidden = resnet.forward(hidden, kNoTime);
    if (level.upsampler) hidden = level.upsampler->forward(hidden, 2 * hidden.size(2), 2 * hidden.size(3));
  }
  return conv_out_.forward(conv_norm_out_.forward(hidden, Activation::silu));
}

}  // namespace ldmtune::model
