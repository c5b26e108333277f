// Initial weights of hypernetworks, keyed by seed and parameter name.

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <span>

#include "adapt/hypernetwork_layout.h"
#include "core/error.h"
#include "core/random.h"

namespace ldmtune::adapt {

namespace {

/// A distribution around 0: a normal of this standard deviation, or uniform within this bound.
struct Distribution {
  bool normal = true;
  double scale = 0.01;
};

Distribution linear_distribution(const std::string& weight_init, std::int64_t fan_in, std::int64_t fan_out) {
  const auto in = static_cast<double>(fan_in), out = static_cast<double>(fan_out);
  if (weight_init == "Normal") return {true, 0.01};
  if (weight_init == "XavierNormal") return {true, std::sqrt(2.0 / (in + out))};
  if (weight_init == "XavierUniform") return {false, std::sqrt(6.0 / (in + out))};
  if (weight_init == "KaimingNormal") return {true, std::sqrt(2.0 / in)};
  if (weight_init == "KaimingUniform") return {false, std::sqrt(6.0 / in)};
  fail_input("weight_init: unknown initialisation '", weight_init, "'");
}

at::Tensor draw(const std::vector<std::int64_t>& shape, const Distribution& distribution, std::uint64_t seed,
                const std::string& name) {
  at::Tensor values = at::empty(shape, at::kFloat);
  const std::span<float> elements(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel()));
  const RandomStream stream{derive_seed(seed, name), Purpose::weight_init, 0, 0};
  const auto scale = static_cast<float>(distribution.scale);
  if (distribution.normal) {
    stream.fill_normal(elements);
    return values.mul_(scale);
  }
  stream.fill_uniform(elements);
  return values.mul_(2.0f).sub_(1.0f).mul_(scale);
}

at::Tensor initial_weight(const HypernetworkSpec& spec, const SequentialModule& module, std::uint64_t seed,
                          const std::string& name) {
  const auto shape = module.weight_shape();
  if (module.kind == ModuleKind::linear)
    return draw(shape, linear_distribution(spec.weight_init, module.in, module.out), seed, name);
  if (spec.layer_norm_init == "a1111") return draw(shape, {true, 0.01}, seed, name);
  const bool zero = spec.layer_norm_init == "zero_last" && module.in_last_stage;
  return at::full(shape, zero ? 0.0 : 1.0, at::kFloat);
}

}  // namespace

const std::vector<std::string>& weight_init_names() {
  static const std::vector<std::string> names{"Normal", "XavierUniform", "XavierNormal", "KaimingUniform",
                                              "KaimingNormal"};
  return names;
}

const std::vector<std::string>& layer_norm_init_names() {
  static const std::vector<std::string> names{"a1111", "ones", "zero_last"};
  return names;
}

void Hypernetwork::initialize(const optim::Arena& arena, std::uint64_t seed) const {
  const at::NoGradGuard no_grad;
  for (std::int64_t width : spec_.widths)
    for (const std::string role : kRoles)
      for (const SequentialModule& module : sequential_modules(spec_, width)) {
        if (!module.has_weights()) continue;
        const std::string name = module_name(width, role, module.index);
        arena.parameter(name + ".weight").detach().copy_(initial_weight(spec_, module, seed, name + ".weight"));
        arena.parameter(name + ".bias").detach().zero_();
      }
}

}  // namespace ldmtune::adapt
