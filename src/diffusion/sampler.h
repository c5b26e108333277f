#pragma once
// Samplers: from noise to latents, one model call a step. Equal to diffusers' schedulers of the same name, step by
// step.

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "diffusion/noise_schedule.h"

namespace ldmtune::diffusion {

/// A sampling run of `num_inference_steps`: which timesteps the model is asked at, and how its answers move the sample.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// Descending; ints for DDIM, possibly fractional for Euler.
  virtual const std::vector<double>& timesteps() const = 0;
  /// What unit-variance noise is multiplied by at the start (1 for DDIM, sigma-dependent for Euler).
  virtual double init_noise_sigma() const = 0;
  /// What the model reads at step i.
  virtual at::Tensor scale_model_input(const at::Tensor& sample, std::size_t step) const = 0;
  /// The sample after step i, given the model's output (after guidance).
  virtual at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) const = 0;
};

/// name: "ddim" (eta 0, no clipping) or "euler". Errors: InputError listing the names.
std::unique_ptr<Sampler> make_sampler(const std::string& name, const NoiseSchedule& schedule,
                                      std::int64_t num_inference_steps);

}  // namespace ldmtune::diffusion
