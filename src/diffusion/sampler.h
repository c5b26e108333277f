#pragma once
// Samplers: from noise to latents, one model call a step. Equal to diffusers' schedulers of the same name, step by
// step.

#include <ATen/ATen.h>

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
  /// The sample after step i, given the model's output (after guidance). Steps are called in order, for one trajectory:
  /// multistep samplers look back.
  virtual at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) = 0;
  /// Ancestral samplers: the caller adds unit-variance noise times this after step i.
  virtual double noise_scale(std::size_t /*step*/) const { return 0; }
};

/// By name: ddim (eta 0, no clipping), euler, euler_ancestral, dpmpp_2m (DPMSolverMultistepScheduler's defaults:
/// dpmsolver++, order 2, midpoint), and dpmpp_2m_karras (the same on Karras' sigmas).
const std::vector<std::string>& sampler_names();
/// Errors: InputError listing the names, or naming what the base's schedule cannot do.
std::unique_ptr<Sampler> make_sampler(const std::string& name, const NoiseSchedule& schedule,
                                      std::int64_t num_inference_steps);

}  // namespace ldmtune::diffusion
