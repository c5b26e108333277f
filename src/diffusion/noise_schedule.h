#pragma once
// Noise schedule of a base, from its scheduler_config.json: pure tensor functions.

#include <ATen/ATen.h>

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace ldmtune::diffusion {

enum class PredictionType { epsilon, v_prediction };

class NoiseSchedule {
 public:
  /// beta_schedule linear | scaled_linear | squaredcos_cap_v2, trained_betas, rescale_betas_zero_snr; absent keys as
  /// diffusers' DDPMScheduler defaults. The config's class does not matter, nor do keys of sampling (clip_sample ...).
  /// Errors: InputError naming the key and value that is not known.
  explicit NoiseSchedule(const nlohmann::json& scheduler_config);

  std::int64_t num_train_timesteps() const { return alphas_cumprod_.size(0); }
  PredictionType prediction_type() const { return prediction_type_; }
  /// f32 (num_train_timesteps), CPU.
  const at::Tensor& alphas_cumprod() const { return alphas_cumprod_; }

  /// sqrt(a_t) x + sqrt(1 - a_t) n; latents, noise (B, C, h, w), timestep i64 (B).
  at::Tensor add_noise(const at::Tensor& latents, const at::Tensor& noise, const at::Tensor& timestep) const;
  /// What the UNet should predict: the noise, or v = sqrt(a_t) n - sqrt(1 - a_t) x.
  at::Tensor target(const at::Tensor& latents, const at::Tensor& noise, const at::Tensor& timestep) const;

  // Keys that samplers read, with diffusers' defaults.
  std::int64_t steps_offset() const { return steps_offset_; }
  bool set_alpha_to_one() const { return set_alpha_to_one_; }
  const std::string& timestep_spacing() const { return timestep_spacing_; }
  /// False where timestep_spacing is a default: each sampler of diffusers has its own.
  bool has_timestep_spacing() const { return has_timestep_spacing_; }
  /// rescale_betas_zero_snr: alphas_cumprod ends at 0.
  bool zero_terminal_snr() const { return zero_terminal_snr_; }

 private:
  at::Tensor alphas_cumprod_;
  at::Tensor signal_, sigma_;  // f32 (num_train_timesteps): sqrt(a_t), sqrt(1 - a_t)
  PredictionType prediction_type_ = PredictionType::epsilon;
  std::int64_t steps_offset_ = 0;
  bool set_alpha_to_one_ = true;
  std::string timestep_spacing_ = "leading";
  bool has_timestep_spacing_ = false, zero_terminal_snr_ = false;
};

/// Mean squared error per sample: prediction, target (B, C, h, w) -> f32 (B).
at::Tensor per_sample_mse(const at::Tensor& prediction, const at::Tensor& target);

}  // namespace ldmtune::diffusion
