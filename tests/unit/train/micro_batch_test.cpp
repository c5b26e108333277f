#include "train/micro_batch.h"

#include "core/error.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

class MicroBatchTest : public TrainingTest {
 protected:
  MicroBatch make(std::uint64_t index, std::uint64_t seed = 5) {
    config.train.micro_batch_size = 3;
    remake_source();
    return source->make(trial(seed).stream->micro_batch(index), seed);
  }
};

TEST_F(MicroBatchTest, NoisyAndTargetFollowTheSchedule) {
  const MicroBatch batch = make(0);
  const at::Tensor a = schedule->alphas_cumprod().index_select(0, batch.timestep).reshape({3, 1, 1, 1});
  EXPECT_TRUE(at::allclose(batch.noisy, a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(batch.target, batch.noise));
  EXPECT_EQ(batch.context.sizes(), (std::vector<std::int64_t>{3, 24, 160}));
}

TEST_F(MicroBatchTest, RowsAreKeyedByTheirDrawNotTheirMicroBatch) {
  // The same draw in a wider micro-batch meets the same noise and timestep.
  const MicroBatch three = make(0);
  config.train.micro_batch_size = 1;
  remake_source();
  for (std::uint64_t draw = 0; draw < 3; ++draw) {
    const MicroBatch one = source->make(trial(5).stream->micro_batch(draw), 5);
    const auto row = static_cast<std::int64_t>(draw);
    EXPECT_TRUE(at::equal(one.noise[0], three.noise[row]));
    EXPECT_TRUE(at::equal(one.timestep[0], three.timestep[row]));
    EXPECT_TRUE(at::equal(one.latents[0], three.latents[row]));
  }
}

TEST_F(MicroBatchTest, LatentSampling) {
  const auto scaled_mean = [&](const MicroBatch& batch) {
    const auto sample = static_cast<std::size_t>(batch.sample_id[0].item<std::int64_t>());
    return dataset->latent(sample).mean * dataset->scaling_factor(sample);
  };
  config.data_options.latent_sampling = "deterministic";
  MicroBatch batch = make(0);
  EXPECT_TRUE(at::equal(batch.latents[0], scaled_mean(batch)));

  config.data_options.latent_sampling = "once";
  const MicroBatch first_epoch = make(0), seed_six = make(0, 6);
  EXPECT_FALSE(at::equal(first_epoch.latents[0], scaled_mean(first_epoch)));
  // "once": the same image gives the same latent for every trial and epoch.
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      if (at::equal(first_epoch.sample_id[i], seed_six.sample_id[j])) {
        EXPECT_TRUE(at::equal(first_epoch.latents[i], seed_six.latents[j]));
      }
    }
  }
  EXPECT_THROW(parse_latent_sampling("twice"), InputError);
}

TEST_F(MicroBatchTest, CaptionDropoutGivesTheEmptyCaption) {
  config.caption.dropout = 1.0;
  const MicroBatch batch = make(0);
  EXPECT_TRUE(at::equal(batch.context[0], prompts->encode({""})[0]));
}

}  // namespace
}  // namespace ldmtune::train
