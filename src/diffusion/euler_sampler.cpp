// Euler and Euler ancestral.

#include <algorithm>
#include <cmath>

#include "diffusion/sampler_parts.h"

namespace ldmtune::diffusion {
namespace {

/// Euler's method on the probability-flow equation, in the variance-exploding frame (Karras et al., arXiv 2206.00364,
/// algorithm 2 without churn). The ancestral one goes down further than the next sigma and comes up to it by noise.
class EulerSampler : public Sampler {
 public:
  EulerSampler(const NoiseSchedule& schedule, std::int64_t count, bool ancestral)
      : type_(schedule.prediction_type()), ancestral_(ancestral) {
    const std::string spacing = schedule.has_timestep_spacing() ? schedule.timestep_spacing() : "linspace";
    timesteps_ = spaced_timesteps(schedule, spacing, count);
    for (double& timestep : timesteps_) {
      timestep = static_cast<float>(timestep);  // as the model is asked
      sigmas_.push_back(sigma_at(schedule, timestep));
    }
    sigmas_.push_back(0);
    const double most = *std::max_element(sigmas_.begin(), sigmas_.end());
    init_noise_sigma_ = spacing == "leading" ? std::sqrt(most * most + 1) : most;
  }

  const std::vector<double>& timesteps() const override { return timesteps_; }
  double init_noise_sigma() const override { return init_noise_sigma_; }
  at::Tensor scale_model_input(const at::Tensor& sample, std::size_t step) const override {
    return sample / std::sqrt(sigmas_.at(step) * sigmas_.at(step) + 1);
  }

  at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) override {
    const double sigma = sigmas_.at(step), delta = sigma_down(step) - sigma;
    if (type_ == PredictionType::epsilon) return apply({1, delta}, model_output, sample);
    // The slope is (x - x0) / sigma with x0 = x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1).
    const double variance = sigma * sigma + 1;
    return apply({1 + delta * sigma / variance, delta / std::sqrt(variance)}, model_output, sample);
  }

  double noise_scale(std::size_t step) const override {
    if (!ancestral_) return 0;
    const double from = sigmas_.at(step), to = sigmas_.at(step + 1);
    return to * std::sqrt((from * from - to * to)) / from;
  }

 private:
  /// Where the noiseless part of a step ends: sigma_down^2 + noise_scale^2 = the next sigma^2.
  double sigma_down(std::size_t step) const {
    const double from = sigmas_.at(step), to = sigmas_.at(step + 1);
    return ancestral_ ? to * to / from : to;
  }

  PredictionType type_;
  bool ancestral_;
  std::vector<double> timesteps_;
  std::vector<double> sigmas_;  // one more than timesteps: the last is 0
  double init_noise_sigma_ = 1;
};

}  // namespace

std::unique_ptr<Sampler> make_euler(const NoiseSchedule& schedule, std::int64_t count, bool ancestral) {
  return std::make_unique<EulerSampler>(schedule, count, ancestral);
}

}  // namespace ldmtune::diffusion
