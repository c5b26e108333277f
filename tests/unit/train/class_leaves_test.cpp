// Prior preservation: leaves of class images between those of the concept.

#include "train/step.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

TEST_F(TrainingTest, LeavesOfTheConceptAndOfClassImagesAlternate) {
  config.dreambooth.prior_loss_weight = 0.5;
  config.caption.template_text = "a sks dog";
  const BatchSource classes = BatchSource::of_class_images(*dataset, *schedule, *prompts, config, at::kCPU);
  remake_source();
  Trial trial = make_trial(config, *base, *source, 10, *comm, at::kCPU, &classes);
  EXPECT_EQ(trial.leaves_per_micro_batch(), 2);
  trial.step = 3;
  for (std::int64_t leaf = 0; leaf < 8; ++leaf) {
    const MicroBatch batch = trial.next_micro_batch(leaf, 4);
    const bool is_class = leaf % 2 == 1;
    EXPECT_EQ(batch.draws, std::vector<std::uint64_t>{static_cast<std::uint64_t>(12 + leaf / 2)});
    EXPECT_EQ(batch.dataset[0].item<int>(), is_class ? 1 : 0);
    EXPECT_EQ(batch.weight[0].item<float>(), is_class ? 0.5F : 1.0F);
    const at::Tensor named = prompts->input_ids({"a sks dog"});
    EXPECT_NE(at::equal(batch.input_ids, named), is_class) << "the template is the concept's";
    const RandomStream noise{config.train.seed, Purpose::noise, is_class ? kClassDataset : 0U, batch.draws[0]};
    EXPECT_TRUE(at::equal(batch.noise[0], normal_tensor(noise, batch.noise[0].sizes())));
  }
}

TEST_F(TrainingTest, ClassImagesThatWeighNothingChangeNothing) {
  config.dreambooth.prior_loss_weight = 0;
  const BatchSource classes = BatchSource::of_class_images(*dataset, *schedule, *prompts, config, at::kCPU);
  Trial plain = make_trial(config, *base, *source, 10, *comm, at::kCPU);
  Trial with_classes = make_trial(config, *base, *source, 10, *comm, at::kCPU, &classes);
  Step step(*base, *prompts, 4, 1, *comm);
  const TrialStep first = step.run({&plain}).front(), second = step.run({&with_classes}).front();
  EXPECT_EQ(first.loss, second.loss);
  EXPECT_EQ(first.grad_norm, second.grad_norm);
  EXPECT_TRUE(at::equal(plain.arena->parameters(), with_classes.arena->parameters()));
}

}  // namespace
}  // namespace ldmtune::train
