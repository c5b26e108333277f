// What a method does not train keeps its bits through updates.

#include <map>
#include <set>
#include <string>

#include "adapt/dreambooth.h"
#include "train/step.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

/// Copies of all of the base's weights by "<component>.<key>".
std::map<std::string, at::Tensor> weights_of(const model::BaseModel& base) {
  std::map<std::string, at::Tensor> copies;
  for (const std::string component : {"unet", "text_encoder"}) {
    for (const auto& [key, tensor] : *adapt::parameters_of(base, component)) {
      copies[component + "." + key] = tensor.detach().clone();
    }
  }
  for (const auto& [key, tensor] : base.vae->parameters()) copies["vae." + key] = tensor.detach().clone();
  return copies;
}

class FrozenWeightsTest : public TrainingTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void configure() {
    config.method = GetParam();
    config.lora.target_modules = config.lora.text_encoder_target_modules = "all";
    config.textual_inversion.placeholder_token = {"<zorp>"};
    config.textual_inversion.num_vectors = {2};
    config.caption.template_text = "[name] in pencil";
    config.caption.name = "<zorp>";
    config.dreambooth.train_unet = "attention";
    config.dreambooth.train_text_encoder = true;
  }
};

TEST_P(FrozenWeightsTest, KeepTheirBitsThroughUpdates) {
  configure();
  const model::BaseModel own = model::load_base_model(base->folder);
  const std::map<std::string, at::Tensor> before = weights_of(own);
  prompts = std::make_unique<pipeline::PromptEncoder>(own, 1);
  remake_source();
  Trial trial = make_trial(config, own, *source, 10, *comm, at::kCPU);
  std::set<std::string> trained;
  for (const optim::ParameterSpec& spec : trial.adapter->parameters()) trained.insert(spec.name);
  Step step(own, *prompts, config.train.global_batch_size, config.train.micro_batch_size, *comm);
  const at::Tensor start = trial.arena->parameters().detach().clone();
  for (int i = 0; i < 2; ++i) step.run({&trial});
  EXPECT_FALSE(at::equal(trial.arena->parameters(), start));
  for (const auto& [name, tensor] : weights_of(own)) {
    EXPECT_EQ(at::equal(tensor, before.at(name)), trained.count(name) == 0) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryMethod, FrozenWeightsTest,
                         ::testing::Values("hypernetwork", "lora", "textual_inversion", "dreambooth"),
                         [](const auto& method) { return std::string(method.param); });

}  // namespace
}  // namespace ldmtune::train
