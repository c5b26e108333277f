#pragma once
// ResnetBlock2D and the changes of size between levels, shared by the UNet and the VAE.

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>

#include "model/layers.h"

namespace ldmtune::model {

struct ResnetOptions {
  std::int64_t in_channels = 0, out_channels = 0;
  std::int64_t time_channels = 0;  ///< width of the time embedding; 0: the block has none (VAE)
  std::int64_t groups = 32;
  double eps = 1e-5;
  Activation activation = Activation::silu;
  double output_scale_factor = 1.0;  ///< the sum of both branches is divided by it
};

class ResnetBlock2D {
 public:
  ResnetBlock2D(Weights& weights, const std::string& name, const ResnetOptions& options);

  /// input (B, in_channels, h, w); `time` (B, time_channels) is the time embedding after the block's activation (the
  /// same for every block of a forward, so computed once), undefined where the block has none. Returns (B,
  /// out_channels, h, w).
  at::Tensor forward(const at::Tensor& input, const at::Tensor& time) const;
  /// The same, keeping no activations for backward (model/recompute.h).
  at::Tensor forward_recomputed(const at::Tensor& input, const at::Tensor& time) const;

 private:
  at::Tensor forward(const at::Tensor& residual, const at::Tensor& input, const at::Tensor& time) const;

  GroupNorm norm1_;
  Conv2d conv1_;
  std::optional<Linear> time_emb_proj_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Conv2d> conv_shortcut_;
  Activation activation_;
  double output_scale_factor_;
};

/// Halves height and width by a strided convolution. With padding 0 a zero row and column are appended at the far side.
class Downsample2D {
 public:
  Downsample2D(Weights& weights, const std::string& name, std::int64_t channels, std::int64_t padding);
  at::Tensor forward(const at::Tensor& input) const;

 private:
  Conv2d conv_;
  bool pad_far_side_;
};

/// Nearest neighbours, then a 3x3 convolution.
class Upsample2D {
 public:
  Upsample2D(Weights& weights, const std::string& name, std::int64_t channels);
  /// Returns (B, C, height, width).
  at::Tensor forward(const at::Tensor& input, std::int64_t height, std::int64_t width) const;

 private:
  Conv2d conv_;
};

}  // namespace ldmtune::model
