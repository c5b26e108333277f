#include "train/step.h"

#include <ATen/core/grad_mode.h>

#include "training_fixture.h"

namespace ldmtune::train {
namespace {

class StepTest : public TrainingTest {
 protected:
  /// `width` 0: as many as there are trials.
  std::vector<std::vector<TrialStep>> train(std::vector<Trial>& trials, int steps, std::size_t width = 0) {
    Step step(*base, *prompts, config.train.global_batch_size, config.train.micro_batch_size, *comm,
              width > 0 ? width : trials.size());
    std::vector<Trial*> members;
    for (Trial& member : trials) members.push_back(&member);
    std::vector<std::vector<TrialStep>> results;
    for (int i = 1; i <= steps; ++i) results.push_back(step.run(members));
    return results;
  }
  static double relative_difference(const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
  }
};

TEST_F(StepTest, ReportsTheLossOfItsMicroBatches) {
  std::vector<Trial> trials;
  trials.push_back(trial(3));
  double expected = 0;
  {
    const at::NoGradGuard no_grad;
    for (std::uint64_t m = 0; m < 4; ++m) {
      const MicroBatch batch = source->make(trials[0].stream->micro_batch(m), 3);
      adapt::ForwardContext context;
      context.draws = batch.draws;
      const auto hooks = trials[0].adapter->hooks(*trials[0].arena, context);
      const at::Tensor prediction = base->unet->forward(batch.noisy, batch.timestep, batch.context, hooks.get());
      expected += (prediction - batch.target).square().mean().item<double>() / 4;
    }
  }
  EXPECT_NEAR(train(trials, 1)[0][0].loss, expected, 1e-6);
}

TEST_F(StepTest, TheSameSeedGivesTheSameBits) {
  std::vector<Trial> a, b;
  a.push_back(trial(3));
  b.push_back(trial(3));
  train(a, 3);
  train(b, 3);
  EXPECT_TRUE(at::equal(a[0].arena->parameters(), b[0].arena->parameters()));
}

TEST_F(StepTest, TheFirstUpdateGoesDownhill) {
  // AdamW's first update moves every parameter by about the learning rate against the sign of its gradient.
  std::vector<Trial> trials;
  config.optim.adam_weight_decay = 0;
  trials.push_back(trial(3));
  const at::Tensor before = trials[0].arena->parameters().detach().clone();
  train(trials, 1);
  const at::Tensor moved = trials[0].arena->parameters().detach() - before;
  const at::Tensor gradient = trials[0].arena->gradients();
  EXPECT_LT((moved * gradient).sum().item<double>(), 0);
  EXPECT_NEAR(moved.abs().max().item<double>(), 1e-2, 1e-4);
}

TEST_F(StepTest, PackedTrialsAgreeWithTrialsAlone) {
  // Trials of one forward differ from trials alone only by the batch width that the base sees: rounding.
  std::vector<Trial> packed, first, second;
  packed.push_back(trial(3));
  packed.push_back(trial(4, {1, 2, 4, 2, 1}));
  first.push_back(trial(3));
  second.push_back(trial(4, {1, 2, 4, 2, 1}));
  const auto together = train(packed, 3), one = train(first, 3), two = train(second, 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(together[i][0].loss, one[i][0].loss, 1e-4 * one[i][0].loss);
    EXPECT_NEAR(together[i][1].loss, two[i][0].loss, 1e-4 * two[i][0].loss);
  }
  EXPECT_LT(relative_difference(packed[0].arena->gradients(), first[0].arena->gradients()), 2e-2);
  EXPECT_NE(together[0][0].loss, together[0][1].loss);
}

TEST_F(StepTest, ATrialsWeightsDoNotDependOnItsPackMatesValues) {
  std::vector<Trial> with_one, with_other;
  with_one.push_back(trial(3));
  with_one.push_back(trial(4));
  with_other.push_back(trial(3));
  with_other.push_back(trial(5, {1, 1, 1}));
  train(with_one, 3);
  train(with_other, 3);
  EXPECT_TRUE(at::equal(with_one[0].arena->parameters(), with_other[0].arena->parameters()));
}

TEST_F(StepTest, ATrialsBitsDependOnThePacksWidthNotOnItsPlaceOrCompany) {
  std::vector<Trial> first_of_two, second_of_two, alone_in_a_wide_pack;
  first_of_two.push_back(trial(3));
  first_of_two.push_back(trial(4));
  second_of_two.push_back(trial(5));
  second_of_two.push_back(trial(3));
  alone_in_a_wide_pack.push_back(trial(3));
  train(first_of_two, 3);
  train(second_of_two, 3);
  train(alone_in_a_wide_pack, 3, 2);
  EXPECT_TRUE(at::equal(first_of_two[0].arena->parameters(), second_of_two[1].arena->parameters()));
  EXPECT_TRUE(at::equal(first_of_two[0].arena->parameters(), alone_in_a_wide_pack[0].arena->parameters()));
}

TEST_F(StepTest, TrialsOfOnePackMayBeAtDifferentSteps) {
  // One joins when another has made two updates: each meets the micro-batches of its own step.
  std::vector<Trial> late, alone;
  late.push_back(trial(3));
  alone.push_back(trial(4));
  train(late, 2, 2);
  late.push_back(trial(4));
  train(late, 2, 2);
  train(alone, 2, 2);
  EXPECT_EQ(late[0].step, 4);
  EXPECT_EQ(late[1].step, 2);
  EXPECT_TRUE(at::equal(late[1].arena->parameters(), alone[0].arena->parameters()));
}

TEST_F(StepTest, ANonFiniteTrialKeepsItsParametersAndSparesTheOthers) {
  std::vector<Trial> trials;
  trials.push_back(trial(3));
  trials.push_back(trial(4));
  {
    const at::NoGradGuard no_grad;
    trials[0].arena->parameters().fill_(std::numeric_limits<float>::infinity());
  }
  const at::Tensor healthy = trials[1].arena->parameters().detach().clone();
  const auto results = train(trials, 1)[0];
  EXPECT_FALSE(results[0].finite);
  EXPECT_TRUE(results[1].finite);
  EXPECT_TRUE(at::isinf(trials[0].arena->parameters()).all().item<bool>());
  EXPECT_EQ(at::count_nonzero(trials[0].optimizer->state().at("moment1")).item<std::int64_t>(), 0);
  EXPECT_FALSE(at::equal(trials[1].arena->parameters(), healthy));
}

TEST_F(StepTest, ClippingByNormScalesTheGradientAndByValueBoundsIt) {
  config.train.max_grad_norm = "1e-4";
  std::vector<Trial> by_norm;
  by_norm.push_back(trial(3));
  const TrialStep clipped = train(by_norm, 1)[0][0];
  EXPECT_LT(clipped.clip_coefficient, 1);
  EXPECT_NEAR(by_norm[0].arena->gradients().norm().item<double>(), 1e-4, 1e-6);

  config.train.max_grad_norm = "0";
  config.train.max_grad_value = "1e-6";
  std::vector<Trial> by_value;
  by_value.push_back(trial(3));
  EXPECT_EQ(train(by_value, 1)[0][0].clip_coefficient, 1);
  EXPECT_LE(by_value[0].arena->gradients().abs().max().item<double>(), 1.0001e-6);
}

TEST_F(StepTest, MicroBatchSizeOneAndTwoAgree) {
  std::vector<Trial> one, two;
  one.push_back(trial(3));
  const double a = train(one, 1)[0][0].loss;
  config.train.micro_batch_size = 2;
  two.push_back(trial(3));
  const double b = train(two, 1)[0][0].loss;
  EXPECT_NEAR(a, b, 1e-5);
}

}  // namespace
}  // namespace ldmtune::train
