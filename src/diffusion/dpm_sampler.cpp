// DPM-Solver++ (2M): Lu et al., arXiv 2211.01095, algorithm 2, as diffusers discretizes it.

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "diffusion/sampler_parts.h"

namespace ldmtune::diffusion {
namespace {

/// One more interval than steps: the last timestep, 0 or steps_offset, is left to the final sigma of 0.
std::vector<double> dpm_timesteps(const NoiseSchedule& schedule, std::int64_t count) {
  const std::string spacing = schedule.has_timestep_spacing() ? schedule.timestep_spacing() : "linspace";
  if (spacing == "trailing") return spaced_timesteps(schedule, spacing, count);
  check_step_count(schedule, count);
  const std::int64_t total = schedule.num_train_timesteps();
  std::vector<double> timesteps;
  for (std::int64_t i = count; i >= 1; --i) {
    if (spacing == "leading") {
      timesteps.push_back(static_cast<double>(i * (total / (count + 1)) + schedule.steps_offset()));
    } else {
      timesteps.push_back(
          std::nearbyint(static_cast<double>(i) * (static_cast<double>(total - 1) / static_cast<double>(count))));
    }
  }
  check_timesteps(schedule, timesteps);
  return timesteps;
}

/// The timestep of a sigma, linear in log sigma between whole timesteps.
double timestep_of(double sigma, const std::vector<double>& log_sigmas) {
  const double sought = std::log(std::max(sigma, 1e-10));
  const auto above = std::upper_bound(log_sigmas.begin(), log_sigmas.end(), sought) - log_sigmas.begin();
  const auto low = static_cast<std::size_t>(
      std::clamp<std::ptrdiff_t>(above - 1, 0, static_cast<std::ptrdiff_t>(log_sigmas.size()) - 2));
  const double fraction = (log_sigmas[low] - sought) / (log_sigmas[low] - log_sigmas[low + 1]);
  return static_cast<double>(low) + std::clamp(fraction, 0.0, 1.0);
}

struct SigmaPath {
  std::vector<double> timesteps, sigmas;
};

/// Karras et al., arXiv 2206.00364, equation 5 with rho = 7 over the schedule's own range of sigmas.
SigmaPath karras_path(const NoiseSchedule& schedule, std::int64_t count) {
  check_step_count(schedule, count);
  std::vector<double> log_sigmas;
  for (std::int64_t t = 0; t < schedule.num_train_timesteps(); ++t) {
    log_sigmas.push_back(std::log(sigma_at(schedule, static_cast<double>(t))));
  }
  constexpr double kRho = 7;
  const double first = std::exp(log_sigmas.back() / kRho), last = std::exp(log_sigmas.front() / kRho);
  SigmaPath path;
  for (std::int64_t i = 0; i < count; ++i) {
    const double fraction = count == 1 ? 0 : static_cast<double>(i) / static_cast<double>(count - 1);
    const double sigma = std::pow(first + fraction * (last - first), kRho);
    path.sigmas.push_back(sigma);
    path.timesteps.push_back(std::nearbyint(timestep_of(sigma, log_sigmas)));
  }
  return path;
}

SigmaPath spaced_path(const NoiseSchedule& schedule, std::int64_t count) {
  SigmaPath path{dpm_timesteps(schedule, count), {}};
  for (const double timestep : path.timesteps) path.sigmas.push_back(sigma_at(schedule, timestep));
  for (std::size_t i = 1; i < path.sigmas.size(); ++i) {
    if (path.sigmas[i] < path.sigmas[i - 1]) continue;
    fail_input("num_inference_steps: ", count, " steps ask for timestep ", path.timesteps[i],
               " twice; take fewer steps");
  }
  return path;
}

/// A noise level in the variance-preserving frame: x = signal x0 + noise n.
struct Level {
  explicit Level(double sigma)
      : signal(1 / std::sqrt(sigma * sigma + 1)), noise(sigma * signal), lambda(-std::log(sigma)) {}
  double signal, noise;
  double lambda;  ///< log(signal / noise); infinite without noise
};

class DpmSampler : public Sampler {
 public:
  DpmSampler(const NoiseSchedule& schedule, SigmaPath path) : timesteps_(std::move(path.timesteps)) {
    path.sigmas.push_back(0);
    std::vector<Level> levels;
    for (const double sigma : path.sigmas) levels.emplace_back(sigma);
    for (std::size_t i = 0; i < timesteps_.size(); ++i) {
      const Level &now = levels[i], &next = levels[i + 1];
      Coefficients c;
      c.clean = schedule.prediction_type() == PredictionType::epsilon
                    ? StepCoefficients{1 / now.signal, -now.noise / now.signal}
                    : StepCoefficients{now.signal, -now.noise};
      const double h = next.lambda - now.lambda, weight = -next.signal * std::expm1(-h);
      c.next = {next.noise / now.noise, weight};
      // The first step and the one to the clean latents are of first order.
      const bool second_order = i > 0 && i + 1 < timesteps_.size();
      if (second_order) c.from_change = 0.5 * weight * h / (now.lambda - levels[i - 1].lambda);
      coefficients_.push_back(c);
    }
  }

  const std::vector<double>& timesteps() const override { return timesteps_; }
  double init_noise_sigma() const override { return 1; }
  at::Tensor scale_model_input(const at::Tensor& sample, std::size_t) const override { return sample; }

  at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) override {
    const Coefficients& c = coefficients_.at(step);
    at::Tensor clean = apply(c.clean, model_output, sample);
    at::Tensor next = apply(c.next, clean, sample);
    if (c.from_change != 0) {
      if (!last_clean_.defined()) fail("dpmpp_2m: step ", step, " was asked for before the steps that lead to it");
      next.add_(clean - last_clean_, c.from_change);
    }
    last_clean_ = std::move(clean);
    return next;
  }

 private:
  struct Coefficients {
    StepCoefficients clean;  ///< x0 from the sample and the model's output
    StepCoefficients next;   ///< the next sample from this one and x0
    double from_change = 0;  ///< times what x0 changed by since the last step
  };
  std::vector<double> timesteps_;
  std::vector<Coefficients> coefficients_;
  at::Tensor last_clean_;
};

}  // namespace

std::unique_ptr<Sampler> make_dpmpp_2m(const NoiseSchedule& schedule, std::int64_t count, bool karras) {
  return std::make_unique<DpmSampler>(schedule, karras ? karras_path(schedule, count) : spaced_path(schedule, count));
}

}  // namespace ldmtune::diffusion
