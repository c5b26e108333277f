#pragma once
// What a sample's error costs: pure functions of tensors, named as in diffusers' training scripts.

#include <ATen/ATen.h>

#include <string>

#include "core/config.h"
#include "diffusion/noise_schedule.h"

namespace ldmtune::diffusion {

/// l2 is d^2; huber is 2 c (sqrt(d^2 + c^2) - c), smooth_l1 2 (sqrt(d^2 + c^2) - c): pseudo-Huber losses that are d^2
/// and d^2 / c for small differences d and grow linearly beyond the threshold c.
enum class LossType { l2, huber, smooth_l1 };
/// How the threshold c depends on the timestep t (of T): huber_c; huber_c^(t / T); or
/// (1 - huber_c) / (1 + sigma_t)^2 + huber_c with sigma_t = sqrt((1 - a_t) / a_t).
enum class HuberSchedule { constant, exponential, snr };
/// Errors: InputError naming the option and the names that are known.
LossType parse_loss_type(const std::string& text);
HuberSchedule parse_huber_schedule(const std::string& text);
/// Errors: InputError naming the option whose number makes no sense.
void check_loss_options(const LossConfig& config);

/// a_t / (1 - a_t): f64 (B), CPU; timestep i64 (B).
at::Tensor signal_to_noise_ratio(const NoiseSchedule& schedule, const at::Tensor& timestep);
/// min-SNR-gamma weights (Hang et al., arXiv 2303.09556): min(snr, gamma) / snr where the model predicts the noise,
/// min(snr, gamma) / (snr + 1) where it predicts v. At zero SNR the former is its limit, 1. f32 (B), CPU.
at::Tensor min_snr_weight(const NoiseSchedule& schedule, const at::Tensor& timestep, double gamma);
/// The threshold c of each sample: f32 (B), CPU.
at::Tensor huber_threshold(const NoiseSchedule& schedule, const at::Tensor& timestep, HuberSchedule kind,
                           double huber_c);
/// What each latent element counts, from masks u8 (B, h, w): unmasked_weight where the mask is 0, 1 where it is 255,
/// linear in between. f32 (B, 1, h, w).
at::Tensor mask_weight(const at::Tensor& masks, double unmasked_weight);

/// How per_sample_loss weighs.
struct LossTerms {
  LossType type = LossType::l2;
  at::Tensor huber_c;                 ///< f32 (B), where the type needs it
  at::Tensor mask;                    ///< f32 (B, 1, h, w) or undefined
  bool normalize_masked_area = true;  ///< divide by the mask's sum instead of its size: small subjects count in full
};
/// Mean over a sample's elements of loss times mask: prediction, target (B, C, h, w) -> f32 (B). With
/// normalize_masked_area it is the weighted mean, sum(mask * loss) / sum(mask), and 0 for an empty mask. The terms lie
/// on the prediction's device.
at::Tensor per_sample_loss(const at::Tensor& prediction, const at::Tensor& target, const LossTerms& terms);

}  // namespace ldmtune::diffusion
