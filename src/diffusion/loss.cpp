#include "diffusion/loss.h"

#include <cmath>

#include "core/error.h"

namespace ldmtune::diffusion {
namespace {

at::Tensor as_rows(const at::Tensor& values) { return values.view({values.size(0), 1, 1, 1}); }

at::Tensor elementwise_loss(const at::Tensor& prediction, const at::Tensor& target, const LossTerms& terms) {
  if (terms.type == LossType::l2) return at::mse_loss(prediction, target, at::Reduction::None);
  const at::Tensor c = as_rows(terms.huber_c);
  const at::Tensor pseudo = ((prediction - target).square() + c.square()).sqrt() - c;
  return terms.type == LossType::huber ? 2 * c * pseudo : 2 * pseudo;
}

}  // namespace

LossType parse_loss_type(const std::string& text) {
  if (text == "l2") return LossType::l2;
  if (text == "huber") return LossType::huber;
  if (text == "smooth_l1") return LossType::smooth_l1;
  fail_input("option loss.loss_type: expected l2, huber or smooth_l1, found '", text, "'");
}

HuberSchedule parse_huber_schedule(const std::string& text) {
  if (text == "constant") return HuberSchedule::constant;
  if (text == "exponential") return HuberSchedule::exponential;
  if (text == "snr") return HuberSchedule::snr;
  fail_input("option loss.huber_schedule: expected constant, exponential or snr, found '", text, "'");
}

void check_loss_options(const LossConfig& config) {
  parse_loss_type(config.loss_type);
  parse_huber_schedule(config.huber_schedule);
  const auto require = [](bool holds, const char* option, const char* expected, double found) {
    if (!holds) fail_input("option loss.", option, ": expected ", expected, ", found ", found);
  };
  require(config.snr_gamma >= 0 && std::isfinite(config.snr_gamma), "snr_gamma", "0 (off) or above", config.snr_gamma);
  require(config.huber_c > 0 && config.huber_c <= 1, "huber_c", "above 0, at most 1", config.huber_c);
  require(config.unmasked_weight >= 0 && config.unmasked_weight <= 1, "unmasked_weight", "0 to 1",
          config.unmasked_weight);
}

at::Tensor signal_to_noise_ratio(const NoiseSchedule& schedule, const at::Tensor& timestep) {
  const at::Tensor alpha = schedule.alphas_cumprod().index_select(0, timestep.cpu()).to(at::kDouble);
  return alpha / (1 - alpha);
}

at::Tensor min_snr_weight(const NoiseSchedule& schedule, const at::Tensor& timestep, double gamma) {
  const at::Tensor snr = signal_to_noise_ratio(schedule, timestep);
  const at::Tensor weight = schedule.prediction_type() == PredictionType::epsilon ? (gamma / snr).clamp_max(1)
                                                                                  : snr.clamp_max(gamma) / (snr + 1);
  return weight.to(at::kFloat);
}

at::Tensor huber_threshold(const NoiseSchedule& schedule, const at::Tensor& timestep, HuberSchedule kind,
                           double huber_c) {
  const at::Tensor t = timestep.cpu();
  if (kind == HuberSchedule::constant) return at::full({t.size(0)}, huber_c, at::kFloat);
  if (kind == HuberSchedule::exponential) {
    const double rate = std::log(huber_c) / static_cast<double>(schedule.num_train_timesteps());
    return (t.to(at::kDouble) * rate).exp().to(at::kFloat);
  }
  // At zero signal sigma is infinite and the first term vanishes.
  const at::Tensor sigma = signal_to_noise_ratio(schedule, t).rsqrt();
  return ((1 - huber_c) / (1 + sigma).square() + huber_c).to(at::kFloat);
}

at::Tensor mask_weight(const at::Tensor& masks, double unmasked_weight) {
  return (masks.to(at::kFloat) * ((1 - unmasked_weight) / 255) + unmasked_weight).unsqueeze(1);
}

at::Tensor per_sample_loss(const at::Tensor& prediction, const at::Tensor& target, const LossTerms& terms) {
  const at::Tensor loss = elementwise_loss(prediction.to(at::kFloat), target.to(at::kFloat), terms);
  if (!terms.mask.defined()) return loss.flatten(1).mean(1);
  const at::Tensor masked = (loss * terms.mask).flatten(1).mean(1);
  if (!terms.normalize_masked_area) return masked;
  const at::Tensor area = terms.mask.flatten(1).mean(1);
  return masked / at::where(area > 0, area, at::ones_like(area));  // an empty mask: 0, and no NaN in the gradient
}

}  // namespace ldmtune::diffusion
