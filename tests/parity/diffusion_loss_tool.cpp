// Losses and timesteps for test_losses.py.
//   loss SPEC.json INPUT.f32 OUTPUT.f32    SPEC: {"scheduler", "timesteps", "shape": [B, C, h, w], "loss": {option:
//   text}}
//     INPUT: prediction, target (B, C, h, w), then masks (B, h, w) from 0 to 255. OUTPUT: for each sample its min-SNR
//     weight, its huber threshold, its loss.
//   timesteps SPEC.json                    SPEC: {"scheduler", "noise": {option: text}, "seed", "dataset", "batch",
//     "draws"}: prints the timesteps of draws 0 .. draws-1, one a line.

#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "diffusion/loss.h"
#include "diffusion/timestep_sampler.h"

namespace {

using namespace ldmtune;
using nlohmann::json;

TrainConfig config_of(const json& spec, const std::string& section) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const auto& [name, text] : spec.at(section).items()) table.set({section + "." + name, text, "SPEC"});
  return config;
}

at::Tensor read_tensor(std::ifstream& in, const std::vector<std::int64_t>& shape) {
  at::Tensor values = at::empty(shape, at::kFloat);
  in.read(static_cast<char*>(values.mutable_data_ptr()), static_cast<std::streamsize>(values.nbytes()));
  if (!in) fail_input("input ends early");
  return values;
}

void write_losses(const json& spec, std::ifstream& in, std::ofstream& out) {
  const LossConfig config = config_of(spec, "loss").loss;
  diffusion::check_loss_options(config);
  const diffusion::NoiseSchedule schedule(spec.at("scheduler"));
  const at::Tensor timestep = at::tensor(spec.at("timesteps").get<std::vector<std::int64_t>>(), at::kLong);
  const auto shape = spec.at("shape").get<std::vector<std::int64_t>>();
  const at::Tensor prediction = read_tensor(in, shape), target = read_tensor(in, shape);
  const at::Tensor masks = read_tensor(in, {shape[0], shape[2], shape[3]}).to(at::kByte);
  diffusion::LossTerms terms;
  terms.type = diffusion::parse_loss_type(config.loss_type);
  terms.huber_c = diffusion::huber_threshold(schedule, timestep, diffusion::parse_huber_schedule(config.huber_schedule),
                                             config.huber_c);
  if (config.masked) terms.mask = diffusion::mask_weight(masks, config.unmasked_weight);
  terms.normalize_masked_area = config.normalize_masked_area;
  for (const at::Tensor& values : {diffusion::min_snr_weight(schedule, timestep, config.snr_gamma), terms.huber_c,
                                   diffusion::per_sample_loss(prediction, target, terms)}) {
    out.write(static_cast<const char*>(values.contiguous().const_data_ptr()),
              static_cast<std::streamsize>(values.nbytes()));
  }
}

void print_timesteps(const json& spec) {
  const diffusion::NoiseSchedule schedule(spec.at("scheduler"));
  const diffusion::TimestepSampler sampler(config_of(spec, "noise").noise, schedule, spec.at("batch"));
  std::vector<std::uint64_t> draws(spec.at("draws").get<std::size_t>());
  std::iota(draws.begin(), draws.end(), 0);
  for (const std::int64_t timestep : sampler.sample(spec.at("seed"), spec.at("dataset"), draws)) {
    std::cout << timestep << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string what = argc > 2 ? argv[1] : "";
    if (what == "loss" && argc == 5) {
      std::ifstream spec(argv[2]), in(argv[3], std::ios::binary);
      std::ofstream out(argv[4], std::ios::binary);
      write_losses(json::parse(spec), in, out);
      return out.flush() ? 0 : 1;
    }
    if (what != "timesteps" || argc != 3) ldmtune::fail_input("usage: see the head of diffusion_loss_tool.cpp");
    std::ifstream spec(argv[2]);
    print_timesteps(json::parse(spec));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
