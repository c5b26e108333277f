#include "diffusion/sampler_parts.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace ldmtune::diffusion {

at::Tensor apply(const StepCoefficients& c, const at::Tensor& model_output, const at::Tensor& sample) {
  return (sample * c.from_sample).add_(model_output, c.from_output);
}

double alpha_at(const NoiseSchedule& schedule, std::int64_t timestep) {
  return static_cast<double>(schedule.alphas_cumprod().const_data_ptr<float>()[timestep]);
}

double sigma_at(const NoiseSchedule& schedule, double timestep) {
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

void check_step_count(const NoiseSchedule& schedule, std::int64_t count) {
  const std::int64_t total = schedule.num_train_timesteps();
  if (count < 1 || count > total) {
    fail_input("num_inference_steps: expected 1 to ", total, " (the base's num_train_timesteps), found ", count);
  }
}

void check_timesteps(const NoiseSchedule& schedule, const std::vector<double>& timesteps) {
  const auto last = static_cast<double>(schedule.num_train_timesteps() - 1);
  const double most = *std::max_element(timesteps.begin(), timesteps.end());
  if (most > last || timesteps.back() < 0) {
    fail_input("num_inference_steps: ", timesteps.size(), " steps with steps_offset ", schedule.steps_offset(),
               " ask for timestep ", most > last ? most : timesteps.back(), ", outside 0 to ", last,
               "; take fewer steps");
  }
}

std::vector<double> spaced_timesteps(const NoiseSchedule& schedule, const std::string& spacing, std::int64_t count) {
  check_step_count(schedule, count);
  const std::int64_t total = schedule.num_train_timesteps();
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
  check_timesteps(schedule, timesteps);
  return timesteps;
}

}  // namespace ldmtune::diffusion
