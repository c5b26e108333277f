#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

constexpr std::int64_t kSteps = 5;

std::vector<ParameterSpec> specs() {
  return {{"a", {7, 5}, "slow"}, {"b", {33}, "slow"}, {"c", {9, 9}, "fast"}, {"d", {1}, "slow"}};
}

std::map<std::string, double> rates(std::int64_t step) {
  return {{"slow", 1e-3 / static_cast<double>(step)}, {"fast", 3e-2}};
}

// The same gradients in any slicing; padding stays zero as in training.
void fill(Arena& arena, std::int64_t step) {
  for (const auto& [name, view] : arena.gradient_views()) {
    const at::Tensor ramp = at::arange(view.numel(), at::kFloat).view(view.sizes());
    view.copy_((ramp * 0.7 + static_cast<double>(step)).sin());
  }
}

Arena start() {
  Arena arena(specs());
  for (const auto& [name, view] : arena.parameter_views()) {
    view.copy_((at::arange(view.numel(), at::kFloat).view(view.sizes()) * 0.3).cos());
  }
  return arena;
}

struct Trained {
  at::Tensor parameters, moment1, moment2;
};

// `kSteps` updates, each in the slices that `cuts` separate.
Trained train(const std::vector<std::int64_t>& cuts) {
  Arena arena = start();
  std::vector<AdamW> optimizers;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i)
    optimizers.emplace_back(arena, AdamWOptions{}, cuts[i], cuts[i + 1]);
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    fill(arena, step);
    for (AdamW& optimizer : optimizers) optimizer.step(arena, rates(step), step);
  }
  std::vector<at::Tensor> moment1, moment2;
  for (AdamW& optimizer : optimizers) {
    moment1.push_back(optimizer.moment1());
    moment2.push_back(optimizer.moment2());
  }
  return {arena.parameters().clone(), at::cat(moment1), at::cat(moment2)};
}

TEST(AdamW, FollowsItsDefinition) {
  const Trained trained = train({0, start().size()});
  const AdamWOptions o;
  Arena arena = start();
  const std::int64_t at = arena.entries()[2].offset + 10;  // an element of "c"
  double parameter = arena.parameters()[at].item<double>(), m = 0, v = 0;
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    fill(arena, step);
    const double gradient = arena.gradients()[at].item<double>(), rate = rates(step).at("fast");
    parameter *= 1 - rate * o.weight_decay;
    m = o.beta1 * m + (1 - o.beta1) * gradient;
    v = o.beta2 * v + (1 - o.beta2) * gradient * gradient;
    const auto n = static_cast<double>(step);
    const double corrected = std::sqrt(v / (1 - std::pow(o.beta2, n))) + o.epsilon;
    parameter -= rate * m / (1 - std::pow(o.beta1, n)) / corrected;
  }
  EXPECT_NEAR(trained.parameters[at].item<double>(), parameter, 1e-6);
  EXPECT_NEAR(trained.moment1[at].item<double>(), m, 1e-6);
  EXPECT_NEAR(trained.moment2[at].item<double>(), v, 1e-6);
}

TEST(AdamW, AnySlicingGivesTheSameBits) {
  const std::int64_t size = start().size();
  const Trained whole = train({0, size});
  std::vector<std::int64_t> smallest;
  for (std::int64_t cut = 0; cut <= size; cut += kArenaAlignment) smallest.push_back(cut);
  // Cuts within and between parameters, an empty slice, the smallest slices.
  for (const std::vector<std::int64_t>& cuts : {{0, 64, size}, {0, 16, 16, 96, 144, size, size}, smallest}) {
    const Trained sliced = train(cuts);
    EXPECT_TRUE(at::equal(whole.parameters, sliced.parameters));
    EXPECT_TRUE(at::equal(whole.moment1, sliced.moment1));
    EXPECT_TRUE(at::equal(whole.moment2, sliced.moment2));
  }
}

TEST(AdamW, TouchesItsSliceOnly) {
  Arena arena = start();
  const at::Tensor before = arena.parameters().clone();
  AdamW optimizer(arena, {}, 16, 64);
  fill(arena, 1);
  optimizer.step(arena, rates(1), 1);
  EXPECT_TRUE(at::equal(before.narrow(0, 0, 16), arena.parameters().narrow(0, 0, 16)));
  EXPECT_TRUE(at::equal(before.narrow(0, 64, 20), arena.parameters().narrow(0, 64, 20)));
  EXPECT_FALSE(at::equal(before.narrow(0, 16, 48), arena.parameters().narrow(0, 16, 48)));
}

TEST(AdamW, PaddingStaysZero) {
  const Trained trained = train({0, start().size()});
  const Arena arena(specs());
  at::Tensor padding = at::ones({arena.size()}, at::kBool);
  for (const ArenaEntry& entry : arena.entries()) padding.narrow(0, entry.offset, entry.elements).fill_(false);
  for (const at::Tensor& flat : {trained.parameters, trained.moment1, trained.moment2}) {
    EXPECT_EQ(flat.masked_select(padding).abs().sum().item<float>(), 0);
  }
}

TEST(AdamW, NeighboursOfAGroupAreOneRange) {
  const Arena arena(specs());
  const std::int64_t c = arena.entries()[2].offset, d = arena.entries()[3].offset;
  const auto ranges = group_ranges(arena, 0, arena.size());
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[0].group, "slow");
  EXPECT_EQ(ranges[0].begin, 0);
  EXPECT_EQ(ranges[0].end, c) << "with the padding after both";
  EXPECT_EQ(ranges[1].begin, c);
  EXPECT_EQ(ranges[1].end, d);
  EXPECT_EQ(ranges[2].begin, d);
  EXPECT_EQ(ranges[2].end, arena.size());
  const auto cut = group_ranges(arena, 16, c + 32);
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_EQ(cut[0].begin, 16);
  EXPECT_EQ(cut[1].end, c + 32);
  EXPECT_TRUE(group_ranges(arena, 16, 16).empty());
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  Arena arena = start();
  EXPECT_THROW(AdamW(arena, {}, 0, arena.size() + 1), Error);
  EXPECT_THROW(AdamW(arena, {}, 32, 16), Error);
  EXPECT_THROW(AdamW(arena, {}, 8, 32), Error) << "within a vector";
  EXPECT_THROW(AdamW(arena, {}, 0, 40), Error);
  AdamW optimizer(arena, {}, 0, arena.size());
  EXPECT_THROW(optimizer.step(arena, {{"slow", 1e-3}}, 1), Error) << "a group without a learning rate";
  EXPECT_THROW(optimizer.step(arena, rates(1), 0), Error);
  EXPECT_THROW(optimizer.step(Arena({{"a", {7}, "slow"}}), rates(1), 1), Error);
}

}  // namespace
}  // namespace ldmtune::optim
