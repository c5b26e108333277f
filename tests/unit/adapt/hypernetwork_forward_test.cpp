#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "small_network.h"

namespace ldmtune::adapt {
namespace {

HypernetworkSpec smooth_spec() {
  HypernetworkSpec spec = full_spec({8});
  spec.layer_structure = {1, 2, 1};
  spec.dropout_structure = {0, 0.25, 0};
  return spec;
}

TEST(HypernetworkForward, IsTheDocumentedFormula) {
  HypernetworkSpec spec;
  spec.activation = "relu";
  spec.widths = {8};
  const SmallNetwork small(spec);
  const at::Tensor x = normals({2, 5, 8}, 1);
  const auto& arena = *small.arena;
  const auto parameter = [&](const std::string& name) { return arena.parameter("8.v.linear." + name).detach(); };
  const at::Tensor hidden = at::relu(at::matmul(x, parameter("0.weight").t()) + parameter("0.bias"));
  const at::Tensor expected = x + (at::matmul(hidden, parameter("2.weight").t()) + parameter("2.bias")) * 0.7;
  ForwardContext context;
  context.strength = 0.7;
  EXPECT_TRUE(at::allclose(small.network.apply(arena, 8, "v", x, context, 0), expected, 1e-5, 1e-6));
}

TEST(HypernetworkForward, StrengthZeroIsTheIdentity) {
  const SmallNetwork small(full_spec());
  const at::Tensor x = normals({2, 5, 12}, 1);
  ForwardContext context;
  context.strength = 0.0;
  EXPECT_TRUE(at::equal(small.network.apply(*small.arena, 12, "k", x, context, 0), x));
}

TEST(HypernetworkForward, ZeroLastStartsAsTheIdentityAndLearns) {
  HypernetworkSpec spec = full_spec({8});
  spec.layer_norm_init = "zero_last";
  const Hypernetwork network(spec);
  const optim::Arena arena(network.parameters());
  network.initialize(arena, 3);
  const at::Tensor x = normals({2, 5, 8}, 1);
  const at::Tensor y = network.apply(arena, 8, "k", x, training_context({1, 2}), 4);
  EXPECT_TRUE(at::equal(y, x));
  (y * normals({2, 5, 8}, 2)).sum().backward();
  EXPECT_GT(arena.parameter("8.k.linear.10.weight").grad().abs().min().item<float>(), 0.0f);
}

TEST(HypernetworkForward, ComputesInFloatWhateverTheBaseRunsIn) {
  const SmallNetwork small(full_spec({8}));
  const at::Tensor x = normals({2, 5, 8}, 1).to(at::kBFloat16);
  const at::Tensor y = small.network.apply(*small.arena, 8, "k", x, {}, 0);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(y, small.network.apply(*small.arena, 8, "k", x.to(at::kFloat), {}, 0).to(at::kBFloat16)));
}

TEST(HypernetworkForward, AutocastChangesNothing) {
  const SmallNetwork small(full_spec({8}));
  const at::Tensor x = normals({2, 5, 8}, 1);
  const at::Tensor plain = small.network.apply(*small.arena, 8, "k", x, {}, 0);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor cast = at::linear(x, x[0]);
  const at::Tensor y = small.network.apply(*small.arena, 8, "k", x, {}, 0);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(cast.scalar_type(), at::kBFloat16) << "autocast was not on";
  EXPECT_TRUE(at::equal(y, plain));
}

TEST(HypernetworkForward, DropoutActsInTrainingOnly) {
  const SmallNetwork small(full_spec({8}));
  const at::Tensor x = normals({2, 5, 8}, 1);
  HypernetworkSpec without = full_spec({8});
  const at::Tensor evaluated = small.network.apply(*small.arena, 8, "k", x, {}, 0);
  EXPECT_TRUE(at::equal(evaluated, small.network.apply(*small.arena, 8, "k", x, {}, 9)));
  EXPECT_FALSE(at::equal(evaluated, small.network.apply(*small.arena, 8, "k", x, training_context({1, 2}), 0)));
}

TEST(HypernetworkForward, ARowsDropoutDoesNotDependOnTheBatch) {
  const SmallNetwork small(full_spec({8}));
  const at::Tensor x = normals({3, 5, 8}, 1);
  const at::Tensor together = small.network.apply(*small.arena, 8, "k", x, training_context({10, 20, 30}), 2);
  for (std::int64_t row = 0; row < 3; ++row) {
    const auto draw = static_cast<std::uint64_t>(10 * (row + 1));
    const at::Tensor alone =
        small.network.apply(*small.arena, 8, "k", x.narrow(0, row, 1), training_context({draw}), 2);
    // The mask is equal; a linear of other width may round otherwise.
    EXPECT_TRUE(at::allclose(together.narrow(0, row, 1), alone, 1e-5, 1e-6)) << row;
  }
  EXPECT_THROW(small.network.apply(*small.arena, 8, "k", x, training_context({10}), 2), Error);
}

/// A weighted sum of the output, in double.
double objective(const SmallNetwork& small, const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  const at::Tensor y = small.network.apply(*small.arena, 8, "k", x, training_context({1, 2}), 1);
  return (y.to(at::kDouble) * normals({2, 3, 8}, 99).to(at::kDouble)).sum().item<double>();
}

/// The derivative along a random direction, against central differences.
void expect_derivative(const SmallNetwork& small, const at::Tensor& x, const at::Tensor& values,
                       const at::Tensor& gradient, const std::string& what) {
  const at::Tensor direction = normals(values.sizes(), derive_seed(3, what));
  const double analytic = (gradient.to(at::kDouble) * direction).sum().item<double>();
  constexpr double kStep = 1e-3;
  const at::Tensor original = values.clone();
  values.copy_(original + direction * kStep);
  const double above = objective(small, x);
  values.copy_(original - direction * kStep);
  const double below = objective(small, x);
  values.copy_(original);
  const double numeric = (above - below) / (2 * kStep);
  EXPECT_NEAR(numeric, analytic, 0.01 * std::max(1.0, std::abs(analytic))) << what;
}

TEST(HypernetworkForward, GradientsEqualFiniteDifferences) {
  const SmallNetwork small(smooth_spec());
  at::Tensor x = normals({2, 3, 8}, 1).requires_grad_();
  const at::Tensor y = small.network.apply(*small.arena, 8, "k", x, training_context({1, 2}), 1);
  (y * normals({2, 3, 8}, 99)).sum().backward();
  for (const optim::ArenaEntry& entry : small.arena->entries()) {
    const std::string& name = entry.spec.name;
    const at::Tensor& leaf = small.arena->parameter(name);
    if (name.starts_with("8.k.")) {
      expect_derivative(small, x, leaf.detach(), leaf.grad(), name);
    } else {
      EXPECT_EQ(leaf.grad().abs().max().item<float>(), 0.0f) << name << " took part in the network of k";
    }
  }
  expect_derivative(small, x, x.detach(), x.grad(), "input");
}

}  // namespace
}  // namespace ldmtune::adapt
