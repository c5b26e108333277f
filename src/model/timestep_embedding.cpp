#include "model/timestep_embedding.h"

#include <cmath>

namespace ldmtune::model {

namespace {
constexpr double kMaxPeriod = 10000.0;
}

SinusoidalEmbedding::SinusoidalEmbedding(std::int64_t width, bool flip_sin_to_cos, double freq_shift, at::Device device)
    : width_(width), flip_sin_to_cos_(flip_sin_to_cos) {
  const std::int64_t half = width / 2;
  const at::Tensor exponent = at::arange(half, at::TensorOptions().dtype(at::kFloat).device(device)) *
                              (-std::log(kMaxPeriod)) / (static_cast<double>(half) - freq_shift);
  frequencies_ = at::exp(exponent);
}

at::Tensor SinusoidalEmbedding::forward(const at::Tensor& values) const {
  const at::Tensor angles = values.to(frequencies_.device(), at::kFloat).unsqueeze(1) * frequencies_.unsqueeze(0);
  const at::Tensor sine = at::sin(angles), cosine = at::cos(angles);
  const at::Tensor embedding = flip_sin_to_cos_ ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1);
  return width_ % 2 == 0 ? embedding : at::constant_pad_nd(embedding, {0, 1});
}

TimestepEmbedding::TimestepEmbedding(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out,
                                     Activation activation)
    : linear_1_(weights, name + ".linear_1", in, out),
      linear_2_(weights, name + ".linear_2", out, out),
      activation_(activation) {}

at::Tensor TimestepEmbedding::forward(const at::Tensor& input) const {
  return linear_2_.forward(activate(linear_1_.forward(input), activation_));
}

}  // namespace ldmtune::model
