#pragma once
// The timestep as a vector: sinusoids (Timesteps in diffusers), then two linear layers (TimestepEmbedding).

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "model/layers.h"

namespace ldmtune::model {

/// (sin, cos) of values / 10000^(i / (width / 2 - freq_shift)), always computed in fp32.
class SinusoidalEmbedding {
 public:
  SinusoidalEmbedding(std::int64_t width, bool flip_sin_to_cos, double freq_shift, at::Device device);
  /// values (N) of any dtype -> (N, width) fp32. An odd width ends in a zero.
  at::Tensor forward(const at::Tensor& values) const;

 private:
  at::Tensor frequencies_;  // (width / 2)
  std::int64_t width_;
  bool flip_sin_to_cos_;
};

class TimestepEmbedding {
 public:
  TimestepEmbedding(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out,
                    Activation activation);
  /// (B, in) -> (B, out).
  at::Tensor forward(const at::Tensor& input) const;

 private:
  Linear linear_1_, linear_2_;
  Activation activation_;
};

}  // namespace ldmtune::model
