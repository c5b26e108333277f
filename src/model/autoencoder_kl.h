#pragma once
// AutoencoderKL as diffusers has it, configured by its config.json.

#include <ATen/ATen.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "model/weights.h"

namespace ldmtune::model {

class AutoencoderKL {
 public:
  AutoencoderKL(const nlohmann::json& config, Weights& weights);
  ~AutoencoderKL();
  AutoencoderKL(AutoencoderKL&&) noexcept;

  struct Posterior {
    at::Tensor mean;    ///< (B, C, h, w), unscaled
    at::Tensor stddev;  ///< (B, C, h, w): exp(logvar / 2), logvar clamped to [-30, 20]
  };
  /// image (B, 3, H, W) in [-1, 1], H and W divisible by downscale_factor().
  Posterior encode(const at::Tensor& image) const;
  /// latent (B, C, h, w), unscaled (already divided by scaling_factor). Returns (B, 3, H, W), about [-1, 1].
  at::Tensor decode(const at::Tensor& latent) const;

  double scaling_factor() const;  ///< 0.18215 where config.json has none
  std::int64_t latent_channels() const;
  std::int64_t downscale_factor() const;  ///< 8 for SD, 4 for the embedded base
  const store::TensorMap& parameters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
