// Trains an arena on given gradients for test_optim.py: SPEC.json INPUT.f32 OUTPUT.f32.
// SPEC: {"parameters": [{"name", "shape", "group"}], "learning_rate": [{group: rate} per step], "cuts": ends of slices
// as fractions of the arena, rounded down,
//        "optimizer": adamw | lion | prodigy, "beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm",
//        for prodigy "use_bias_correction", "safeguard_warmup", "d_coef"}.
// INPUT: parameters, then each step's gradients, all in order of SPEC without padding. OUTPUT: parameters, then the
// optimizer's state (by name) and an average with decay 0.9 in the same form, then each step's gradient norm, clip
// coefficient and Prodigy's d (0 for the others).

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "optim/adamw.h"
#include "optim/clipping.h"
#include "optim/ema.h"
#include "optim/lion.h"
#include "optim/prodigy.h"

namespace {

using namespace ldmtune;
using nlohmann::json;

void read_into(std::ifstream& in, const optim::Arena& arena, const at::Tensor& flat) {
  const auto views = arena.views_of(flat);
  for (const optim::ArenaEntry& entry : arena.entries()) {
    const at::Tensor& view = views.at(entry.spec.name);
    in.read(static_cast<char*>(view.mutable_data_ptr()), static_cast<std::streamsize>(view.nbytes()));
  }
  if (!in) fail_input("input ends early");
}

void write_from(std::ofstream& out, const optim::Arena& arena, const at::Tensor& flat) {
  const auto views = arena.views_of(flat);
  for (const optim::ArenaEntry& entry : arena.entries()) {
    const at::Tensor& view = views.at(entry.spec.name);
    out.write(static_cast<const char*>(view.const_data_ptr()), static_cast<std::streamsize>(view.nbytes()));
  }
}

std::vector<optim::ParameterSpec> parse_parameters(const json& list) {
  std::vector<optim::ParameterSpec> specs;
  for (const json& item : list) specs.push_back({item.at("name"), item.at("shape"), item.at("group")});
  return specs;
}

using Optimizers = std::vector<std::unique_ptr<optim::Optimizer>>;

std::unique_ptr<optim::Optimizer> make_optimizer(const optim::Arena& arena, const json& spec, std::int64_t begin,
                                                 std::int64_t end) {
  const std::string name = spec.value("optimizer", "adamw");
  if (name == "lion") {
    const optim::LionOptions options{spec.at("beta1"), spec.at("beta2"), spec.at("weight_decay")};
    return std::make_unique<optim::Lion>(arena, options, begin, end);
  }
  if (name == "prodigy") {
    optim::ProdigyOptions options;
    options.beta1 = spec.at("beta1"), options.beta2 = spec.at("beta2");
    options.epsilon = spec.at("epsilon"), options.weight_decay = spec.at("weight_decay");
    options.d_coef = spec.at("d_coef");
    options.use_bias_correction = spec.at("use_bias_correction");
    options.safeguard_warmup = spec.at("safeguard_warmup");
    return std::make_unique<optim::Prodigy>(arena, options, begin, end, [](const std::vector<double>& blocks) {
      return std::accumulate(blocks.begin(), blocks.end(), 0.0);
    });
  }
  const optim::AdamWOptions options{spec.at("beta1"), spec.at("beta2"), spec.at("epsilon"), spec.at("weight_decay")};
  return std::make_unique<optim::AdamW>(arena, options, begin, end);
}

Optimizers make_optimizers(const optim::Arena& arena, const json& spec) {
  Optimizers optimizers;
  std::int64_t begin = 0;
  for (const double fraction : spec.at("cuts").get<std::vector<double>>()) {
    const auto vectors = static_cast<double>(arena.size() / optim::kArenaAlignment);
    const auto end = static_cast<std::int64_t>(fraction * vectors) * optim::kArenaAlignment;
    optimizers.push_back(make_optimizer(arena, spec, begin, end));
    begin = end;
  }
  return optimizers;
}

void write_states(std::ofstream& out, const optim::Arena& arena, const Optimizers& optimizers) {
  std::map<std::string, std::vector<at::Tensor>> slices;
  for (const auto& optimizer : optimizers) {
    for (const auto& [name, slice] : optimizer->state()) slices[name].push_back(slice);
  }
  for (const auto& [name, parts] : slices) write_from(out, arena, at::cat(parts));
}

/// Scales the gradients and gives {norm, coefficient}.
std::array<float, 2> clip(const optim::Arena& arena, double max_norm) {
  const auto sums = optim::block_square_sums(arena.gradients(), 0, arena.size());
  const double norm = std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
  const double coefficient = optim::clip_coefficient(norm, max_norm);
  if (coefficient < 1) arena.gradients().mul_(coefficient);
  return {static_cast<float>(norm), static_cast<float>(coefficient)};
}

void train(const json& spec, std::ifstream& in, std::ofstream& out) {
  const optim::Arena arena(parse_parameters(spec.at("parameters")));
  read_into(in, arena, arena.parameters());
  const Optimizers optimizers = make_optimizers(arena, spec);
  optim::Ema ema(arena, 0.9, 0, arena.size());
  std::vector<std::array<float, 3>> rows;
  std::int64_t step = 0;
  for (const auto& rates : spec.at("learning_rate").get<std::vector<std::map<std::string, double>>>()) {
    read_into(in, arena, arena.gradients());
    const auto [norm, coefficient] = clip(arena, spec.at("max_grad_norm"));
    ++step;
    for (const auto& optimizer : optimizers) optimizer->step(arena, rates, step);
    ema.update(arena, step);
    const auto scalars = optimizers.front()->scalars();
    rows.push_back({norm, coefficient, scalars.count("d") ? static_cast<float>(scalars.at("d")) : 0});
  }
  write_from(out, arena, arena.parameters());
  write_states(out, arena, optimizers);
  write_from(out, arena, ema.average());
  out.write(reinterpret_cast<const char*>(rows.data()), static_cast<std::streamsize>(rows.size() * sizeof rows[0]));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 4) ldmtune::fail_input("usage: optim_adamw_tool SPEC.json INPUT.f32 OUTPUT.f32");
    std::ifstream spec(argv[1]), in(argv[2], std::ios::binary);
    std::ofstream out(argv[3], std::ios::binary);
    train(nlohmann::json::parse(spec), in, out);
    return out.flush() ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
