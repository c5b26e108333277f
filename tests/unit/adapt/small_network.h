#pragma once
// A small hypernetwork whose every option is on, and what tests need around it.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <memory>

#include "adapt/hypernetwork.h"
#include "core/random.h"

namespace ldmtune::adapt {

inline HypernetworkSpec full_spec(std::set<std::int64_t> widths = {8, 12}) {
  HypernetworkSpec spec;
  spec.layer_structure = {1, 2, 1.5, 1};
  spec.activation = "silu";
  spec.layer_norm = true;
  spec.layer_norm_init = "ones";
  spec.activate_output = true;
  spec.dropout_structure = {0, 0.25, 0.5, 0.125};
  spec.widths = std::move(widths);
  return spec;
}

/// f32 standard normals, a pure function of `key`.
inline at::Tensor normals(at::IntArrayRef shape, std::uint64_t key) {
  at::Tensor values = at::empty(shape, at::kFloat);
  RandomStream{key, Purpose::noise, 0, 0}.fill_normal(
      {values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

/// A network with its arena, every parameter (biases and norms too) drawn so that nothing hides behind zeros.
struct SmallNetwork {
  Hypernetwork network;
  std::unique_ptr<optim::Arena> arena;

  explicit SmallNetwork(HypernetworkSpec spec, double scale = 0.3)
      : network(std::move(spec)), arena(std::make_unique<optim::Arena>(network.parameters())) {
    const at::NoGradGuard no_grad;
    for (const optim::ArenaEntry& entry : arena->entries())
      arena->parameter(entry.spec.name)
          .detach()
          .copy_(normals(entry.spec.shape, derive_seed(1, entry.spec.name)) * scale);
  }
};

inline ForwardContext training_context(std::vector<std::uint64_t> draws) {
  ForwardContext context;
  context.training = true;
  context.seed = 42;
  context.dataset = 1;
  context.draws = std::move(draws);
  return context;
}

}  // namespace ldmtune::adapt
