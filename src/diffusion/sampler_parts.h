#pragma once
// What samplers share; for this room alone.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"

namespace ldmtune::diffusion {

/// sample' = from_sample * sample + from_output * model_output.
struct StepCoefficients {
  double from_sample = 1, from_output = 0;
};
at::Tensor apply(const StepCoefficients& c, const at::Tensor& model_output, const at::Tensor& sample);

/// a_t in double: coefficients are computed exactly, then rounded once.
double alpha_at(const NoiseSchedule& schedule, std::int64_t timestep);

/// sqrt((1 - a) / a), linear between whole timesteps; finite at the end of a zero-terminal-SNR schedule too.
double sigma_at(const NoiseSchedule& schedule, double timestep);

/// `count` timesteps in descending order (table 2 of arXiv 2305.08891). linspace gives fractions.
/// Errors: InputError naming num_inference_steps.
std::vector<double> spaced_timesteps(const NoiseSchedule& schedule, const std::string& spacing, std::int64_t count);
/// Errors: InputError if one of them is outside the schedule.
void check_timesteps(const NoiseSchedule& schedule, const std::vector<double>& timesteps);
void check_step_count(const NoiseSchedule& schedule, std::int64_t count);

std::unique_ptr<Sampler> make_euler(const NoiseSchedule& schedule, std::int64_t count, bool ancestral);
std::unique_ptr<Sampler> make_dpmpp_2m(const NoiseSchedule& schedule, std::int64_t count, bool karras);

}  // namespace ldmtune::diffusion
