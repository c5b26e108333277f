// Runs samplers and noise schedules for test_samplers.py: REQUESTS.json INPUT.f32 OUTPUT.f32.
// INPUT holds latents and noise, (2, 4, 4, 8, 8) f32. Each request adds to OUTPUT (all f32):
//   {"config", "sampler", "steps"}: init_noise_sigma, timesteps (steps), the sample before the first and after each
//   step;
//   {"config", "timestep": [4]}: alphas_cumprod, noisy latents, target, per_sample_mse(noisy, target).
// The model is a fixed function of what it reads and the timestep, the same in Python.

#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"

namespace {

using namespace ldmtune;

void append(std::ofstream& out, const at::Tensor& values) {
  const at::Tensor flat = values.to(at::kFloat).contiguous();
  out.write(static_cast<const char*>(flat.const_data_ptr()), static_cast<std::streamsize>(flat.nbytes()));
}

at::Tensor model(const at::Tensor& input, double timestep) {
  return 0.8 * input + 0.3 * (2 * input + 0.01 * timestep).sin();
}

/// As pipeline/generate.h draws it for image 5 of seed 3.
at::Tensor step_noise(std::size_t step) {
  at::Tensor noise = at::empty({4, 4, 8, 8}, at::kFloat);
  const RandomStream stream{3, Purpose::sampler_noise, 0, std::uint64_t{5} << 16 | step};
  stream.fill_normal({noise.data_ptr<float>(), static_cast<std::size_t>(noise.numel())});
  return noise;
}

void sample(const nlohmann::json& request, const at::Tensor& noise, std::ofstream& out) {
  const diffusion::NoiseSchedule schedule(request.at("config"));
  const auto sampler = diffusion::make_sampler(request.at("sampler"), schedule, request.at("steps"));
  append(out, at::full({1}, sampler->init_noise_sigma(), at::kDouble));
  append(out, at::tensor(sampler->timesteps(), at::kDouble));
  at::Tensor state = noise * sampler->init_noise_sigma();
  append(out, state);
  for (std::size_t i = 0; i < sampler->timesteps().size(); ++i) {
    const at::Tensor output = model(sampler->scale_model_input(state, i), sampler->timesteps()[i]);
    state = sampler->step(output, state, i);
    if (const double scale = sampler->noise_scale(i); scale > 0) state = state + scale * step_noise(i);
    append(out, state);
  }
}

void add_noise(const nlohmann::json& request, const at::Tensor& latents, const at::Tensor& noise, std::ofstream& out) {
  const diffusion::NoiseSchedule schedule(request.at("config"));
  const at::Tensor timestep = at::tensor(request.at("timestep").get<std::vector<std::int64_t>>(), at::kLong);
  const at::Tensor noisy = schedule.add_noise(latents, noise, timestep);
  const at::Tensor target = schedule.target(latents, noise, timestep);
  append(out, schedule.alphas_cumprod());
  append(out, noisy);
  append(out, target);
  append(out, diffusion::per_sample_mse(noisy, target));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 4) ldmtune::fail_input("usage: diffusion_sampler_tool REQUESTS.json INPUT.f32 OUTPUT.f32");
    std::ifstream requests(argv[1]), input(argv[2], std::ios::binary);
    at::Tensor both = at::empty({2, 4, 4, 8, 8}, at::kFloat);
    input.read(static_cast<char*>(both.mutable_data_ptr()), static_cast<std::streamsize>(both.nbytes()));
    if (!input) ldmtune::fail_input(argv[2], ": expected ", both.nbytes(), " bytes");
    std::ofstream out(argv[3], std::ios::binary);
    for (const nlohmann::json& request : nlohmann::json::parse(requests)) {
      if (request.contains("sampler")) {
        sample(request, both[1], out);
      } else {
        add_noise(request, both[0], both[1], out);
      }
    }
    return out.flush() ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
