#pragma once
// The layers all networks are built of. Each holds the checkpoint's own tensors (shared with parameters()), nothing
// derived from them: a parameter that becomes trainable, or moves into an arena, stays the one the layer reads.

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>

#include "model/config_reader.h"
#include "model/hooks.h"
#include "model/weights.h"

namespace ldmtune::model {

/// y = x W^T + b on the last dimension.
class Linear {
 public:
  enum class Bias { no, yes };
  enum class Stored { matrix, pointwise_conv };  ///< weight (out, in), or (out, in, 1, 1) of a 1x1 convolution

  /// Takes "<name>.weight" and, with a bias, "<name>.bias".
  Linear(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out, Bias bias = Bias::yes,
         Stored stored = Stored::matrix);

  /// input (..., in) -> (..., out); `hooks` may add to the output.
  at::Tensor forward(const at::Tensor& input, ModelHooks* hooks = nullptr) const;
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
};

/// Square kernel, one group, with bias.
class Conv2d {
 public:
  struct Geometry {
    std::int64_t kernel = 3, stride = 1, padding = 1;
  };
  Conv2d(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out, Geometry geometry);
  Conv2d(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out);  ///< 3x3, same size

  /// input (B, in, h, w) -> (B, out, h', w').
  at::Tensor forward(const at::Tensor& input) const;
  at::ScalarType dtype() const { return weight_.scalar_type(); }

 private:
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  Geometry geometry_;
};

enum class Activation { silu, gelu, quick_gelu, mish, relu };

class GroupNorm {
 public:
  /// Errors: InputError if `channels` is not divisible by `groups`.
  GroupNorm(Weights& weights, const std::string& name, std::int64_t groups, std::int64_t channels, double eps);
  /// input (B, channels, ...).
  at::Tensor forward(const at::Tensor& input) const;
  /// The activation of it.
  at::Tensor forward(const at::Tensor& input, Activation activation) const;

 private:
  at::Tensor weight_, bias_;
  std::int64_t groups_;
  double eps_;
};

/// Over the last dimension.
class LayerNorm {
 public:
  LayerNorm(Weights& weights, const std::string& name, std::int64_t width, double eps);
  at::Tensor forward(const at::Tensor& input) const;

 private:
  at::Tensor weight_, bias_;
  double eps_;
};

at::Tensor activate(const at::Tensor& input, Activation activation);
/// The key's activation by diffusers' name (silu, swish, gelu, mish, relu; silu where the key is absent).
/// Errors: InputError naming the key and what it holds.
Activation read_activation(ConfigReader& config, const std::string& key);

}  // namespace ldmtune::model
