// Lion, Prodigy, the average and the loss scale: what parity with published formulas does not show.

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "core/error.h"
#include "optim/ema.h"
#include "optim/lion.h"
#include "optim/loss_scaler.h"
#include "optim/prodigy.h"

namespace ldmtune::optim {
namespace {

std::vector<ParameterSpec> specs() { return {{"a", {7, 5}, "slow"}, {"b", {33}, "fast"}, {"c", {129}, "slow"}}; }

void fill(const at::Tensor& flat, double phase) {
  flat.copy_((at::arange(flat.numel(), at::kFloat) * 0.7 + phase).sin());
}

Arena start() {
  Arena arena(specs());
  for (auto& [name, view] : arena.parameter_views()) fill(view.view(-1), 1);
  return arena;
}

void fill_gradients(Arena& arena, double phase) {
  for (auto& [name, view] : arena.gradient_views()) fill(view.view(-1), phase);
}

double sum(const std::vector<double>& blocks) { return std::accumulate(blocks.begin(), blocks.end(), 0.0); }

const std::map<std::string, double> kRates{{"slow", 1e-3}, {"fast", 1e-2}};
const std::map<std::string, double> kOneRate{{"slow", 1.0}, {"fast", 1.0}};

TEST(Lion, AnySlicingGivesTheSameBits) {
  const auto train = [](const std::vector<std::int64_t>& cuts) {
    Arena arena = start();
    std::vector<Lion> slices;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) slices.emplace_back(arena, LionOptions{}, cuts[i], cuts[i + 1]);
    for (int step = 1; step <= 4; ++step) {
      fill_gradients(arena, step);
      for (Lion& slice : slices) slice.step(arena, kRates, step);
    }
    return arena.parameters().clone();
  };
  const std::int64_t size = start().size();
  const at::Tensor whole = train({0, size});
  EXPECT_FALSE(at::equal(whole, start().parameters()));
  EXPECT_TRUE(at::equal(whole, train({0, 16, 16, 112, size})));
}

TEST(Lion, MovesByItsLearningRateWhateverTheGradient) {
  Arena arena = start();
  const at::Tensor before = arena.parameters().clone();
  LionOptions options;
  options.weight_decay = 0;
  Lion lion(arena, options, 0, arena.size());
  fill_gradients(arena, 2);
  lion.step(arena, kRates, 1);
  const at::Tensor moved = arena.views_of(arena.parameters() - before).at("b").abs();
  EXPECT_NEAR(moved.min().item<double>(), 1e-2, 1e-6);
  EXPECT_NEAR(moved.max().item<double>(), 1e-2, 1e-6);
  EXPECT_THROW(lion.step(arena, {{"slow", 1e-3}}, 2), Error) << "a group without a learning rate";
  EXPECT_THROW(Lion(arena, {}, 8, 32), Error);
}

TEST(Prodigy, PaddingStaysZeroAndNoGradientMovesNothing) {
  Arena arena = start();
  Prodigy prodigy(arena, {}, 0, arena.size(), sum);
  const at::Tensor before = arena.parameters().clone();
  prodigy.step(arena, kOneRate, 1);
  EXPECT_TRUE(at::equal(before, arena.parameters()));
  EXPECT_EQ(prodigy.scalars().at("updates"), 0);
  fill_gradients(arena, 2);
  prodigy.step(arena, {{"slow", 0.0}, {"fast", 0.0}}, 2);
  EXPECT_TRUE(at::equal(before, arena.parameters())) << "a warm-up's first learning rate";
  for (int step = 3; step < 6; ++step) prodigy.step(arena, kOneRate, step);
  EXPECT_EQ(prodigy.scalars().at("updates"), 3);
  at::Tensor padding = at::ones({arena.size()}, at::kBool);
  for (const ArenaEntry& entry : arena.entries()) padding.narrow(0, entry.offset, entry.elements).fill_(false);
  EXPECT_EQ(arena.parameters().masked_select(padding).abs().sum().item<double>(), 0);
  EXPECT_TRUE(at::isfinite(arena.parameters()).all().item<bool>());
}

TEST(Prodigy, GoesOnFromItsStateWithTheSameBits) {
  const auto gradients = [](Arena& arena, int step) { fill_gradients(arena, 0.1 * step); };
  ProdigyOptions options;
  options.d_coef = 100;  // grows within a few updates
  Arena whole = start();
  Prodigy reference(whole, options, 0, whole.size(), sum);
  Arena stopped = start();
  auto first = std::make_unique<Prodigy>(stopped, options, 0, stopped.size(), sum);
  for (int step = 1; step <= 3; ++step) {
    gradients(whole, step), reference.step(whole, kOneRate, step);
    gradients(stopped, step), first->step(stopped, kOneRate, step);
  }
  Prodigy second(stopped, options, 0, stopped.size(), sum);
  for (const auto& [name, slice] : second.state()) slice.copy_(first->state().at(name));
  second.set_scalars(first->scalars());
  first.reset();
  for (int step = 4; step <= 12; ++step) {
    gradients(whole, step), reference.step(whole, kOneRate, step);
    gradients(stopped, step), second.step(stopped, kOneRate, step);
  }
  EXPECT_TRUE(at::equal(whole.parameters(), stopped.parameters()));
  EXPECT_EQ(reference.scalars(), second.scalars());
  EXPECT_GT(reference.d(), 1e-6);
  EXPECT_THROW(second.set_scalars({{"d", 1.0}}), Error);
}

TEST(Prodigy, RefusesSeveralLearningRatesAndSlicesWithinBlocks) {
  Arena arena = start();
  Prodigy prodigy(arena, {}, 0, arena.size(), sum);
  EXPECT_THROW(prodigy.step(arena, kRates, 1), Error);
  EXPECT_THROW(Prodigy(arena, {}, 16, arena.size(), sum), Error);
  EXPECT_NO_THROW(Prodigy(arena, {}, 16, 16, sum)) << "a rank without blocks";
}

TEST(Ema, AnySlicingGivesTheSameBitsAndTheFirstUpdateForgetsTheStart) {
  Arena arena = start();
  const std::int64_t size = arena.size();
  Ema whole(arena, 0.5, 0, size), left(arena, 0.5, 0, 48), right(arena, 0.5, 48, size);
  for (int step = 1; step <= 5; ++step) {
    fill(arena.parameters(), step);
    for (Ema* each : {&whole, &left, &right}) each->update(arena, step);
    if (step == 1) {
      EXPECT_TRUE(at::allclose(whole.average(), arena.parameters(), 0, 1e-6));
    }
  }
  EXPECT_TRUE(at::equal(whole.average(), at::cat({left.average(), right.average()})));
  EXPECT_EQ(ema_decay_at(1, 0.9), 0);
  EXPECT_DOUBLE_EQ(ema_decay_at(2, 0.9), 2.0 / 11);
  EXPECT_EQ(ema_decay_at(100000, 0.9), 0.9);
}

TEST(LossScaler, HalvesAtAnOverflowAndDoublesAfterTwoThousandGoodUpdates) {
  LossScaler scaler;
  scaler.book(false);
  EXPECT_EQ(scaler.scale, 32768);
  EXPECT_EQ(scaler.skipped, 1);
  for (int i = 0; i < 1999; ++i) scaler.book(true);
  EXPECT_EQ(scaler.scale, 32768);
  scaler.book(true);
  EXPECT_EQ(scaler.scale, 65536);
  for (int i = 0; i < 17; ++i) {
    EXPECT_FALSE(scaler.is_exhausted());
    scaler.book(false);
  }
  EXPECT_TRUE(scaler.is_exhausted());
}

TEST(BlockSums, DoNotDependOnHowManyBlocksAreAskedFor) {
  at::Tensor a = at::empty({3 * kNormBlock + 100}, at::kFloat), b = at::empty_like(a);
  fill(a, 1), fill(b, 2);
  const std::vector<double> together = block_products(a, b);
  ASSERT_EQ(together.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto first = static_cast<std::int64_t>(i) * kNormBlock;
    const std::int64_t length = std::min(kNormBlock, a.numel() - first);
    const at::Tensor left = a.narrow(0, first, length), right = b.narrow(0, first, length);
    EXPECT_EQ(block_products(left, right).front(), together[i]);
    EXPECT_NEAR(block_products_by_halving(left, right).front(), together[i], 1e-8);
    EXPECT_NEAR((left.to(at::kDouble) * right.to(at::kDouble)).sum().item<double>(), together[i], 1e-8);
  }
  EXPECT_THROW(block_products(a, b.narrow(0, 0, 5)), Error);
}

}  // namespace
}  // namespace ldmtune::optim
