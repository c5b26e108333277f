#include "diffusion/sampler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace ldmtune::diffusion {
namespace {

/// sample' = from_sample * sample + from_output * model_output.
struct StepCoefficients {
  double from_sample = 1, from_output = 0;
};

at::Tensor apply(const StepCoefficients& c, const at::Tensor& model_output, const at::Tensor& sample) {
  return (sample * c.from_sample).add_(model_output, c.from_output);
}

/// a_t in double: coefficients are computed exactly, then rounded once.
double alpha_at(const NoiseSchedule& schedule, std::int64_t timestep) {
  return static_cast<double>(schedule.alphas_cumprod().const_data_ptr<float>()[timestep]);
}

/// `count` timesteps in descending order (table 2 of arXiv 2305.08891). linspace gives fractions.
std::vector<double> spaced_timesteps(const NoiseSchedule& schedule, const std::string& spacing, std::int64_t count) {
  const std::int64_t total = schedule.num_train_timesteps();
  if (count < 1 || count > total) {
    fail_input("num_inference_steps: expected 1 to ", total, " (the base's num_train_timesteps), found ", count);
  }
  std::vector<double> timesteps;
  timesteps.reserve(static_cast<std::size_t>(count));
  const double last = static_cast<double>(total - 1);
  for (std::int64_t i = count - 1; i >= 0; --i) {
    const auto index = static_cast<double>(i);
    if (spacing == "linspace") {
      timesteps.push_back(count == 1 ? 0 : index * (last / static_cast<double>(count - 1)));
    } else if (spacing == "leading") {
      timesteps.push_back(static_cast<double>(i * (total / count) + schedule.steps_offset()));
    } else {
      const double ratio = static_cast<double>(total) / static_cast<double>(count);
      timesteps.push_back(
          std::nearbyint(static_cast<double>(total) - (static_cast<double>(count - 1) - index) * ratio) - 1);
    }
  }
  if (spacing == "linspace" && count > 1) timesteps.front() = last;
  const double most = *std::max_element(timesteps.begin(), timesteps.end());
  if (most > last || timesteps.back() < 0) {
    fail_input("num_inference_steps: ", count, " steps with steps_offset ", schedule.steps_offset(),
               " ask for timestep ", most > last ? most : timesteps.back(), ", outside 0 to ", last,
               "; take fewer steps");
  }
  return timesteps;
}

/// Song et al., arXiv 2010.02502, with eta 0.
class DdimSampler : public Sampler {
 public:
  DdimSampler(const NoiseSchedule& schedule, std::int64_t count)
      : timesteps_(spaced_timesteps(schedule, schedule.timestep_spacing(), count)) {
    const std::int64_t stride = schedule.num_train_timesteps() / count;
    const double final_alpha = schedule.set_alpha_to_one() ? 1.0 : alpha_at(schedule, 0);
    for (double& timestep : timesteps_) {
      timestep = std::nearbyint(timestep);
      const auto t = static_cast<std::int64_t>(timestep);
      const double alpha = alpha_at(schedule, t);
      const double previous = t >= stride ? alpha_at(schedule, t - stride) : final_alpha;
      if (alpha == 0 && schedule.prediction_type() == PredictionType::epsilon) {
        fail_input(
            "scheduler_config.json: rescale_betas_zero_snr with prediction_type epsilon has no DDIM step at timestep ",
            t, "; expected prediction_type v_prediction or timestep_spacing leading");
      }
      coefficients_.push_back(step_coefficients(schedule.prediction_type(), alpha, previous));
    }
  }

  const std::vector<double>& timesteps() const override { return timesteps_; }
  double init_noise_sigma() const override { return 1; }
  at::Tensor scale_model_input(const at::Tensor& sample, std::size_t) const override { return sample; }
  at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) const override {
    return apply(coefficients_.at(step), model_output, sample);
  }

 private:
  /// x' = sqrt(a') x0 + sqrt(1 - a') n, with the clean x0 and the noise n that the output stands for.
  static StepCoefficients step_coefficients(PredictionType type, double alpha, double previous) {
    const double signal = std::sqrt(alpha), sigma = std::sqrt(1 - alpha);
    const double next_signal = std::sqrt(previous), next_sigma = std::sqrt(1 - previous);
    if (type == PredictionType::epsilon) {
      return {next_signal / signal, next_sigma - next_signal * sigma / signal};
    }
    return {next_signal * signal + next_sigma * sigma, next_sigma * signal - next_signal * sigma};
  }

  std::vector<double> timesteps_;
  std::vector<StepCoefficients> coefficients_;
};

/// Euler's method on the probability-flow equation, in the variance-exploding frame (Karras et al., arXiv 2206.00364,
/// algorithm 2 without churn).
class EulerSampler : public Sampler {
 public:
  EulerSampler(const NoiseSchedule& schedule, std::int64_t count) : type_(schedule.prediction_type()) {
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

  at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) const override {
    const double sigma = sigmas_.at(step), delta = sigmas_.at(step + 1) - sigma;
    if (type_ == PredictionType::epsilon) return apply({1, delta}, model_output, sample);
    // The slope is (x - x0) / sigma with x0 = x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1).
    const double variance = sigma * sigma + 1;
    return apply({1 + delta * sigma / variance, delta / std::sqrt(variance)}, model_output, sample);
  }

 private:
  /// sqrt((1 - a) / a), linear between whole timesteps.
  static double sigma_at(const NoiseSchedule& schedule, double timestep) {
    const std::int64_t last = schedule.num_train_timesteps() - 1;
    const auto sigma = [&](std::int64_t t) {
      double alpha = alpha_at(schedule, t);
      // Zero terminal SNR would need an infinite sigma; diffusers ends at this alpha instead.
      if (schedule.zero_terminal_snr() && t == last) alpha = 0x1p-24;
      return std::sqrt((1 - alpha) / alpha);
    };
    const auto below = static_cast<std::int64_t>(std::floor(timestep));
    const double fraction = timestep - static_cast<double>(below);
    return fraction == 0 ? sigma(below) : sigma(below) + fraction * (sigma(std::min(below + 1, last)) - sigma(below));
  }

  PredictionType type_;
  std::vector<double> timesteps_;
  std::vector<double> sigmas_;  // one more than timesteps: the last is 0
  double init_noise_sigma_ = 1;
};

}  // namespace

std::unique_ptr<Sampler> make_sampler(const std::string& name, const NoiseSchedule& schedule,
                                      std::int64_t num_inference_steps) {
  if (name == "ddim") return std::make_unique<DdimSampler>(schedule, num_inference_steps);
  if (name == "euler") return std::make_unique<EulerSampler>(schedule, num_inference_steps);
  fail_input("sampler: expected ddim or euler, found '", name, "'");
}

}  // namespace ldmtune::diffusion
