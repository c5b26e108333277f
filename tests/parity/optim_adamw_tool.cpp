// Trains an arena on given gradients for test_optim.py: SPEC.json INPUT.f32 OUTPUT.f32.
// SPEC: {"parameters": [{"name", "shape", "group"}], "learning_rate": [{group: rate} per step], "cuts": ends of slices
// as fractions of the arena, rounded down,
//        "beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm"}.
// INPUT: parameters, then each step's gradients, all in order of SPEC without padding. OUTPUT: parameters, first and
// second moments in the same form, then each step's gradient norm and clip coefficient.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "optim/adamw.h"
#include "optim/clipping.h"

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

std::vector<optim::AdamW> make_optimizers(const optim::Arena& arena, const json& spec) {
  const optim::AdamWOptions options{spec.at("beta1"), spec.at("beta2"), spec.at("epsilon"), spec.at("weight_decay")};
  std::vector<optim::AdamW> optimizers;
  std::int64_t begin = 0;
  for (const double fraction : spec.at("cuts").get<std::vector<double>>()) {
    const auto vectors = static_cast<double>(arena.size() / optim::kArenaAlignment);
    const auto end = static_cast<std::int64_t>(fraction * vectors) * optim::kArenaAlignment;
    optimizers.emplace_back(arena, options, begin, end);
    begin = end;
  }
  return optimizers;
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
  auto optimizers = make_optimizers(arena, spec);
  read_into(in, arena, arena.parameters());
  std::vector<std::array<float, 2>> clipping;
  std::int64_t step = 0;
  for (const auto& rates : spec.at("learning_rate").get<std::vector<std::map<std::string, double>>>()) {
    read_into(in, arena, arena.gradients());
    clipping.push_back(clip(arena, spec.at("max_grad_norm")));
    ++step;
    for (optim::AdamW& optimizer : optimizers) optimizer.step(arena, rates, step);
  }
  std::vector<at::Tensor> moment1, moment2;
  for (optim::AdamW& optimizer : optimizers) {
    moment1.push_back(optimizer.moment1());
    moment2.push_back(optimizer.moment2());
  }
  write_from(out, arena, arena.parameters());
  write_from(out, arena, at::cat(moment1));
  write_from(out, arena, at::cat(moment2));
  out.write(reinterpret_cast<const char*>(clipping.data()),
            static_cast<std::streamsize>(clipping.size() * sizeof clipping[0]));
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
