#include "model/unet_blocks.h"

namespace ldmtune::model {

namespace {

ResnetOptions resnet_options(const UNetConfig& config, std::int64_t in, std::int64_t out, double scale_factor = 1.0) {
  return {.in_channels = in,
          .out_channels = out,
          .time_channels = config.time_embedding_dim,
          .groups = config.norm_num_groups,
          .eps = config.norm_eps,
          .activation = config.activation,
          .output_scale_factor = scale_factor};
}

TransformerOptions transformer_options(const UNetConfig& config, const UNetConfig::Level& level) {
  return {.channels = level.channels,
          .heads = level.heads,
          .layers = level.transformer_layers,
          .groups = config.norm_num_groups,
          .cross_attention_dim = config.cross_attention_dim,
          .linear_projection = config.use_linear_projection,
          .only_cross_attention = level.only_cross_attention,
          .upcast_attention = config.upcast_attention};
}

// The mid block never runs with cross-attention only, whatever the coarsest level does.
TransformerOptions mid_transformer_options(const UNetConfig& config) {
  TransformerOptions options = transformer_options(config, config.levels.back());
  options.only_cross_attention = false;
  return options;
}

at::Tensor run(const ResnetBlock2D& block, const at::Tensor& sample, const Conditioning& conditioning) {
  return conditioning.recompute ? block.forward_recomputed(sample, conditioning.time)
                                : block.forward(sample, conditioning.time);
}

at::Tensor run(const Transformer2DModel& block, const at::Tensor& sample, const Conditioning& conditioning) {
  return conditioning.recompute ? block.forward_recomputed(sample, conditioning.text, conditioning.hooks)
                                : block.forward(sample, conditioning.text, conditioning.hooks);
}

std::string numbered(const std::string& name, std::size_t index) { return name + "." + std::to_string(index); }

}  // namespace

DownBlock::DownBlock(Weights& weights, const UNetConfig& config, std::size_t level, AttentionLayers& registry) {
  const UNetConfig::Level& own = config.levels[level];
  const std::string name = numbered("down_blocks", level);
  std::int64_t in = config.levels[level == 0 ? 0 : level - 1].channels;
  for (std::int64_t i = 0; i < own.layers; ++i) {
    resnets_.emplace_back(weights, numbered(name + ".resnets", i), resnet_options(config, in, own.channels));
    if (own.down_attention) {
      attentions_.emplace_back(weights, numbered(name + ".attentions", i), transformer_options(config, own), registry);
    }
    in = own.channels;
  }
  if (level + 1 < config.levels.size()) {
    downsampler_.emplace(weights, name + ".downsamplers.0", own.channels, config.downsample_padding);
  }
}

at::Tensor DownBlock::forward(at::Tensor sample, const Conditioning& conditioning, Skips& skips) const {
  for (std::size_t i = 0; i < resnets_.size(); ++i) {
    sample = run(resnets_[i], sample, conditioning);
    if (!attentions_.empty()) sample = run(attentions_[i], sample, conditioning);
    skips.push_back(sample);
  }
  if (downsampler_) {
    sample = downsampler_->forward(sample);
    skips.push_back(sample);
  }
  return sample;
}

MidBlock::MidBlock(Weights& weights, const UNetConfig& config, AttentionLayers& registry)
    : first_(weights, "mid_block.resnets.0",
             resnet_options(config, config.levels.back().channels, config.levels.back().channels,
                            config.mid_block_scale_factor)),
      attention_(weights, "mid_block.attentions.0", mid_transformer_options(config), registry),
      last_(weights, "mid_block.resnets.1",
            resnet_options(config, config.levels.back().channels, config.levels.back().channels,
                           config.mid_block_scale_factor)) {}

at::Tensor MidBlock::forward(const at::Tensor& sample, const Conditioning& conditioning) const {
  const at::Tensor hidden = run(first_, sample, conditioning);
  return run(last_, run(attention_, hidden, conditioning), conditioning);
}

UpBlock::UpBlock(Weights& weights, const UNetConfig& config, std::size_t level, AttentionLayers& registry) {
  const std::size_t coarsest = config.levels.size() - 1;
  const UNetConfig::Level& own = config.levels[level];
  const std::string name = numbered("up_blocks", coarsest - level);
  const std::int64_t last_skip = config.levels[level == 0 ? 0 : level - 1].channels;
  std::int64_t in = config.levels[level == coarsest ? level : level + 1].channels;
  for (std::int64_t i = 0; i <= own.layers; ++i) {
    const std::int64_t skip = i == own.layers ? last_skip : own.channels;
    resnets_.emplace_back(weights, numbered(name + ".resnets", i), resnet_options(config, in + skip, own.channels));
    if (own.up_attention) {
      attentions_.emplace_back(weights, numbered(name + ".attentions", i), transformer_options(config, own), registry);
    }
    in = own.channels;
  }
  if (level > 0) upsampler_.emplace(weights, name + ".upsamplers.0", own.channels);
}

at::Tensor UpBlock::forward(at::Tensor sample, const Conditioning& conditioning, Skips& skips) const {
  for (std::size_t i = 0; i < resnets_.size(); ++i) {
    sample = run(resnets_[i], at::cat({sample, skips.back()}, 1), conditioning);
    skips.pop_back();
    if (!attentions_.empty()) sample = run(attentions_[i], sample, conditioning);
  }
  if (upsampler_) sample = upsampler_->forward(sample, skips.back().size(2), skips.back().size(3));
  return sample;
}

}  // namespace ldmtune::model
