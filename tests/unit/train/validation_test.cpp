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

}  // namespace
}  // namespace ldmtune::train
