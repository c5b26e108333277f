#include "train/synthetic_data.h"

#include "core/error.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

using SyntheticDataTest = TrainingTest;

TEST_F(SyntheticDataTest, IsADatasetForTheBaseAndGoesAway) {
  std::filesystem::path where;
  {
    const SyntheticData synthetic;
    where = synthetic.folder();
    synthetic.write(config, /*resolution=*/96, /*latent_side=*/0, "a picture");
    const data::LatentDataset read(where);
    EXPECT_EQ(read.size(), SyntheticData::kSamples);
    EXPECT_EQ(read.index().vae_sha256, base->vae_sha256);
    EXPECT_EQ(read.caption(3), "a picture");
    EXPECT_EQ(read.bucket(0).width, 96);
    const at::Tensor scaled = read.latent(0).mean * base->vae->scaling_factor();
    EXPECT_EQ(scaled.size(1), 96 / base->vae->downscale_factor());
    EXPECT_NEAR(scaled.std().item<double>(), 1, 0.1);
  }
  EXPECT_FALSE(std::filesystem::exists(where));
}

TEST_F(SyntheticDataTest, IsTheSameEveryTimeAndAsLargeAsAsked) {
  const SyntheticData first, second;
  first.write(config, 0, 16, "x");
  second.write(config, 64, 99, "x");
  EXPECT_EQ(data::LatentDataset(first.folder()).sha256(), data::LatentDataset(second.folder()).sha256());
  EXPECT_THROW(first.write(config, 63, 16, "x"), InputError);
}

}  // namespace
}  // namespace ldmtune::train
