#include "train/validation.h"

#include "core/error.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

class ValidationTest : public TrainingTest {
 protected:
  Validator validator() { return {*base, *schedule, *prompts, config, *comm, at::kCPU}; }
  ValidationSet heldout() {
    return {"heldout", dataset, validation_samples(*dataset, store::Split::validation, 0), true};
  }
};

TEST_F(ValidationTest, TimestepsAreSpacedOverTheSchedule) {
  config.validation.timesteps = 4;
  EXPECT_EQ(validator().timesteps(), (std::vector<std::int64_t>{125, 375, 625, 875}));
  for (const std::int64_t bad : {0, 2, 6, 2000}) {
    config.validation.timesteps = bad;
    EXPECT_THROW(validator(), InputError) << bad;
  }
}

TEST_F(ValidationTest, HoldsTheSplitsImagesInOrderOfHash) {
  EXPECT_EQ(validation_samples(*dataset, store::Split::validation, 0), (std::vector<std::size_t>{5, 6}));
  EXPECT_EQ(validation_samples(*dataset, store::Split::validation, 1), (std::vector<std::size_t>{5}));
  EXPECT_EQ(validation_samples(*dataset, store::Split::train, 0).size(), 5u);
}

TEST_F(ValidationTest, IsAPureFunctionOfTheModelAndTheImages) {
  const ValidationLoss once = validator().evaluate(heldout(), nullptr);
  std::vector<Trial> unused;
  unused.push_back(trial(3));
  const ValidationLoss again = validator().evaluate(heldout(), nullptr);
  EXPECT_EQ(once.by_image, again.by_image);
  config.validation.seed = 1;
  EXPECT_NE(validator().evaluate(heldout(), nullptr).by_image, once.by_image);
}

TEST_F(ValidationTest, AnImagesLossDoesNotDependOnItsCompany) {
  ValidationSet alone = heldout();
  const ValidationLoss both = validator().evaluate(alone, nullptr);
  alone.samples.pop_back();
  EXPECT_EQ(validator().evaluate(alone, nullptr).by_image.front(), both.by_image.front());
}

TEST_F(ValidationTest, MeansAgree) {
  config.validation.timesteps = 8;
  const ValidationLoss loss = validator().evaluate(heldout(), nullptr);
  ASSERT_EQ(loss.by_image.size(), 2u);
  EXPECT_NEAR(loss.mean, (loss.by_image[0] + loss.by_image[1]) / 2, 1e-12);
  EXPECT_NEAR(loss.mean, (loss.by_quartile[0] + loss.by_quartile[1] + loss.by_quartile[2] + loss.by_quartile[3]) / 4,
              1e-12);
}

TEST_F(ValidationTest, AnIdentityAdapterLeavesTheBaseAsItIs) {
  config.hypernetwork.layer_norm = true;
  config.hypernetwork.layer_norm_init = "zero_last";
  const Trial identity = trial(3);
  const auto hooks = [&] { return identity.adapter->hooks(*identity.arena, {}); };
  EXPECT_EQ(validator().evaluate(heldout(), hooks).by_image, validator().evaluate(heldout(), nullptr).by_image);
}

TEST_F(ValidationTest, DriftIsTheDifferenceFromTheBasesOwnPrediction) {
  ValidationSet set = heldout();
  set.uses_templates = false;
  Predictions base_predictions, own;
  const ValidationLoss base_loss = validator().evaluate(set, nullptr, {.keep = &base_predictions});
  ASSERT_EQ(base_predictions.size(), 1u);  // two images at four timesteps are one batch of eight
  EXPECT_TRUE(base_loss.drift_by_image.empty());
  EXPECT_EQ(validator().evaluate(set, nullptr, {.base = &base_predictions}).drift, 0);

  const Trial strange = trial(3);
  const auto hooks = [&] { return strange.adapter->hooks(*strange.arena, {}); };
  const ValidationLoss loss = validator().evaluate(set, hooks, {.base = &base_predictions, .keep = &own});
  EXPECT_EQ(loss.by_image, validator().evaluate(set, hooks).by_image);
  const at::Tensor difference = own.front() - base_predictions.front();  // (8, 4, 16, 16)
  const at::Tensor rows = difference.square().mean(at::IntArrayRef{1, 2, 3}).to(at::kDouble);
  ASSERT_EQ(loss.drift_by_image.size(), 2u);
  for (std::int64_t image = 0; image < 2; ++image) {
    const double expected = rows.slice(0, 4 * image, 4 * image + 4).mean().item<double>();
    EXPECT_GT(expected, 0);
    EXPECT_NEAR(loss.drift_by_image[static_cast<std::size_t>(image)], expected, 1e-6 * expected);
  }
  EXPECT_NEAR(loss.drift, (loss.drift_by_image[0] + loss.drift_by_image[1]) / 2, 1e-12);
}

TEST_F(ValidationTest, ATriggerStandsBeforeTheCaption) {
  ValidationSet set = heldout();
  set.uses_templates = false;
  const ValidationLoss without = validator().evaluate(set, nullptr);
  set.trigger = "zorp";
  const ValidationLoss with = validator().evaluate(set, nullptr);
  EXPECT_NE(with.by_image, without.by_image);
  // As if the caption had been written so.
  config.caption.template_text = "zorp [filewords]";
  set.trigger.clear();
  set.uses_templates = true;
  EXPECT_EQ(validator().evaluate(set, nullptr).by_image, with.by_image);
}

}  // namespace
}  // namespace ldmtune::train
