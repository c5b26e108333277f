#pragma once
// The UNet's levels: down blocks leave skip connections, the mid block works at the coarsest size, up blocks take them
// back.

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/resnet_block.h"
#include "model/transformer_2d.h"
#include "model/unet_config.h"

namespace ldmtune::model {

/// What every block of one forward reads.
struct Conditioning {
  const at::Tensor& time;  ///< (B, time_embedding_dim), already activated
  const at::Tensor& text;  ///< (B, T, cross_attention_dim), one and the same tensor for all layers
  ModelHooks* hooks;
  bool recompute = false;  ///< blocks keep no activations for backward
};

/// Skip connections, a stack: each (B, C, h, w).
using Skips = std::vector<at::Tensor>;

/// DownBlock2D or CrossAttnDownBlock2D.
class DownBlock {
 public:
  DownBlock(Weights& weights, const UNetConfig& config, std::size_t level, AttentionLayers& registry);
  /// Pushes the output of each layer, and of the downsampler, onto `skips`.
  at::Tensor forward(at::Tensor sample, const Conditioning& conditioning, Skips& skips) const;

 private:
  std::vector<ResnetBlock2D> resnets_;
  std::vector<Transformer2DModel> attentions_;  ///< one a resnet, or none
  std::optional<Downsample2D> downsampler_;     ///< not at the coarsest level
};

/// UNetMidBlock2DCrossAttn: resnet, transformer, resnet.
class MidBlock {
 public:
  MidBlock(Weights& weights, const UNetConfig& config, AttentionLayers& registry);
  at::Tensor forward(const at::Tensor& sample, const Conditioning& conditioning) const;

 private:
  ResnetBlock2D first_;
  Transformer2DModel attention_;
  ResnetBlock2D last_;
};

/// UpBlock2D or CrossAttnUpBlock2D.
class UpBlock {
 public:
  /// `level` counts as in the configuration (0 is the finest); the checkpoint numbers up blocks from the coarsest.
  UpBlock(Weights& weights, const UNetConfig& config, std::size_t level, AttentionLayers& registry);
  /// Pops one skip a resnet; grows to the size of the skip that is then on top (odd sizes are not twice the coarser
  /// ones).
  at::Tensor forward(at::Tensor sample, const Conditioning& conditioning, Skips& skips) const;

 private:
  std::vector<ResnetBlock2D> resnets_;
  std::vector<Transformer2DModel> attentions_;
  std::optional<Upsample2D> upsampler_;  ///< not at the finest level
};

}  // namespace ldmtune::model
