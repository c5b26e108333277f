// fp16's loss scale in the step, on a base in fp32: the scale itself must leave no trace in the bits.

#include "train/step.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

using LossScaleTest = TrainingTest;

TEST_F(LossScaleTest, APowerOfTwoChangesNoBit) {
  Trial plain = trial(1), scaled = trial(1);
  scaled.scaler.emplace();
  Step step(*base, *prompts, 4, 1, *comm);
  for (int i = 0; i < 2; ++i) {
    const TrialStep a = step.run({&plain}).front(), b = step.run({&scaled}).front();
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.grad_norm, b.grad_norm);
    EXPECT_FALSE(b.skipped);
  }
  EXPECT_TRUE(at::equal(plain.arena->parameters(), scaled.arena->parameters()));
  EXPECT_EQ(scaled.scaler->good_updates, 2);
}

TEST_F(LossScaleTest, AnOverflowCountsTheUpdateAndChangesNothingElse) {
  Trial overflowing = trial(1);
  overflowing.scaler.emplace();
  overflowing.scaler->scale = 1e300;
  const at::Tensor before = overflowing.arena->parameters().clone();
  Step step(*base, *prompts, 4, 1, *comm);
  const TrialStep result = step.run({&overflowing}).front();
  EXPECT_TRUE(result.skipped && result.finite);
  EXPECT_EQ(overflowing.step, 1);
  EXPECT_EQ(overflowing.applied_updates(), 0);
  EXPECT_EQ(overflowing.scaler->scale, 5e299);
  EXPECT_TRUE(at::equal(before, overflowing.arena->parameters()));
}

}  // namespace
}  // namespace ldmtune::train
