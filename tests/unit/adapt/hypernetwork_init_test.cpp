#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "small_network.h"

namespace ldmtune::adapt {
namespace {

/// Initialized with seed 5; the arena's order is the network's unless `reversed`.
std::unique_ptr<optim::Arena> initialized(const Hypernetwork& network, bool reversed = false, std::uint64_t seed = 5) {
  auto specs = network.parameters();
  if (reversed) std::reverse(specs.begin(), specs.end());
  auto arena = std::make_unique<optim::Arena>(specs);
  network.initialize(*arena, seed);
  return arena;
}

struct Moments {
  double mean, deviation, largest;
};

Moments moments(const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().to(at::kDouble);
  return {values.mean().item<double>(), values.std(false).item<double>(), values.abs().max().item<double>()};
}

TEST(InitialWeights, HaveTheMomentsOfTheirInitialisation) {
  // Width 96, structure 1, 3, 1: in 96, out 288; 27,648 draws.
  const double root12 = std::sqrt(12.0);
  const std::map<std::string, double> deviation{{"Normal", 0.01},
                                                {"XavierNormal", std::sqrt(2.0 / 384)},
                                                {"XavierUniform", 2 * std::sqrt(6.0 / 384) / root12},
                                                {"KaimingNormal", std::sqrt(2.0 / 96)},
                                                {"KaimingUniform", 2 * std::sqrt(6.0 / 96) / root12}};
  for (const std::string& name : weight_init_names()) {
    HypernetworkSpec spec;
    spec.layer_structure = {1, 3, 1};
    spec.weight_init = name;
    spec.widths = {96};
    const auto arena = initialized(Hypernetwork(spec));
    const Moments found = moments(arena->parameter("96.k.linear.0.weight"));
    const double expected = deviation.at(name);
    EXPECT_NEAR(found.deviation, expected, 0.02 * expected) << name;
    EXPECT_NEAR(found.mean, 0.0, 4 * expected / std::sqrt(27648.0)) << name;
    const bool uniform = name.ends_with("Uniform");
    if (uniform) {
      EXPECT_LE(found.largest, expected * root12 / 2 * 1.000001) << name;
    }
    EXPECT_EQ(found.largest > 2.5 * expected, !uniform) << name;
    EXPECT_TRUE(at::equal(arena->parameter("96.k.linear.0.bias"), at::zeros({288}))) << name;
  }
}

TEST(InitialWeights, AreRecomputedFromTheDocumentedLayout) {
  HypernetworkSpec spec;
  spec.widths = {8};
  const auto arena = initialized(Hypernetwork(spec));
  std::vector<float> z(16 * 8);
  RandomStream{derive_seed(5, "8.v.linear.0.weight"), Purpose::weight_init, 0, 0}.fill_normal(z);
  const at::Tensor weight = arena->parameter("8.v.linear.0.weight").flatten();
  for (std::int64_t i = 0; i < weight.numel(); ++i)
    EXPECT_EQ(weight[i].item<float>(), z[static_cast<std::size_t>(i)] * 0.01f);
}

TEST(InitialWeights, DependOnTheNameAndNotOnOrderOrOtherWidths) {
  const Hypernetwork both(full_spec({8, 12})), one(full_spec({12}));
  const auto whole = initialized(both), reversed = initialized(both, true), alone = initialized(one);
  for (const auto& parameter : both.parameters())
    EXPECT_TRUE(at::equal(whole->parameter(parameter.name), reversed->parameter(parameter.name))) << parameter.name;
  for (const auto& parameter : one.parameters())
    EXPECT_TRUE(at::equal(whole->parameter(parameter.name), alone->parameter(parameter.name))) << parameter.name;
}

TEST(InitialWeights, DifferBetweenSeedsAndBetweenKAndV) {
  const Hypernetwork network(full_spec({8}));
  const auto first = initialized(network), second = initialized(network, false, 6);
  EXPECT_FALSE(at::equal(first->parameter("8.k.linear.0.weight"), second->parameter("8.k.linear.0.weight")));
  EXPECT_FALSE(at::equal(first->parameter("8.k.linear.0.weight"), first->parameter("8.v.linear.0.weight")));
}

TEST(InitialWeights, OverwriteWhatWasThere) {
  SmallNetwork small(full_spec({8}));
  small.network.initialize(*small.arena, 5);
  EXPECT_TRUE(at::equal(small.arena->parameters(), initialized(small.network)->parameters()));
}

TEST(LayerNormInit, A1111DrawsItsWeightUnderEveryInitialisation) {
  for (const std::string& weight_init : weight_init_names()) {
    HypernetworkSpec spec = full_spec({512});
    spec.weight_init = weight_init;
    spec.layer_norm_init = "a1111";
    const auto arena = initialized(Hypernetwork(spec));
    const Moments found = moments(arena->parameter("512.k.linear.2.weight"));
    EXPECT_NEAR(found.deviation, 0.01, 0.001) << weight_init;
    EXPECT_NEAR(found.mean, 0.0, 0.002) << weight_init;
    EXPECT_TRUE(at::equal(arena->parameter("512.k.linear.2.bias"), at::zeros({1024})));
  }
}

TEST(LayerNormInit, OnesAndZeroLast) {
  HypernetworkSpec spec = full_spec({8});
  auto arena = initialized(Hypernetwork(spec));
  EXPECT_TRUE(at::equal(arena->parameter("8.k.linear.10.weight"), at::ones({8})));
  spec.layer_norm_init = "zero_last";
  arena = initialized(Hypernetwork(spec));
  EXPECT_TRUE(at::equal(arena->parameter("8.k.linear.2.weight"), at::ones({16})));
  EXPECT_TRUE(at::equal(arena->parameter("8.k.linear.10.weight"), at::zeros({8})));
  EXPECT_TRUE(at::equal(arena->parameter("8.k.linear.10.bias"), at::zeros({8})));
  EXPECT_GT(moments(arena->parameter("8.k.linear.8.weight")).deviation, 0.005);
}

TEST(InitialWeights, OfAnUnknownInitialisationAreRefused) {
  HypernetworkSpec spec = full_spec({8});
  spec.weight_init = "Orthogonal";
  EXPECT_THROW(initialized(Hypernetwork(spec)), InputError);
}

}  // namespace
}  // namespace ldmtune::adapt
