#include "sweep/cost.h"

#include <nlohmann/json.hpp>

#include "model/base_model.h"
#include "sweep/plan.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

const std::filesystem::path kBase = std::filesystem::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base";
const std::filesystem::path kStableDiffusion = std::filesystem::path(LDMTUNE_SOURCE_DIR) / "tests/fixtures/sd15";

class Cost : public SweepTest {
 protected:
  TrialCost of(const TrainConfig& config) const {
    const model::UNetConfig unet = base_unet_config(config.base);
    return trial_cost(config, {16, 16, {100}, 8, 8, 0}, unet);
  }
  TrainConfig emoji() const {
    TrainConfig config;
    config.base = kBase;
    return config;
  }
};

TEST_F(Cost, ParametersCountedAreThoseOfTheWeights) {
  model::BaseModelOptions options;
  options.vae = options.text = false;
  const model::BaseModel base = model::load_base_model(kBase, options);
  double parameters = 0;
  for (const auto& [name, tensor] : base.unet->parameters()) parameters += static_cast<double>(tensor.numel());
  EXPECT_EQ(model::unet_cost(base_unet_config(kBase), 16, 16, 77).parameters, parameters);
}

// torch.utils.flop_counter over diffusers' UNet2DConditionModel of the same configurations, 77 tokens.
TEST_F(Cost, OperationsAreWhatTorchCounts) {
  EXPECT_EQ(model::unet_cost(base_unet_config(kStableDiffusion), 64, 64, 77).parameters, 859'520'964.0);
  EXPECT_DOUBLE_EQ(model::unet_cost(base_unet_config(kBase), 16, 16, 77).flops, 882'900'992.0);
  EXPECT_DOUBLE_EQ(model::unet_cost(base_unet_config(kStableDiffusion), 64, 64, 77).flops, 803'273'441'280.0);
}

TEST_F(Cost, GrowsWithUpdatesBatchAndStructure) {
  const TrialCost small = of(emoji());
  TrainConfig config = emoji();
  config.train.max_train_steps *= 2;
  EXPECT_DOUBLE_EQ(of(config).training_flops, 2 * small.training_flops);
  EXPECT_EQ(of(config).updates, 2 * small.updates);
  config = emoji();
  config.hypernetwork.layer_structure = {1, 2, 4, 2, 1};
  EXPECT_GT(of(config).training_flops, small.training_flops);
  EXPECT_GT(of(config).bytes, small.bytes);
  config = emoji();
  config.train.micro_batch_size = 4;
  EXPECT_EQ(of(config).training_flops, small.training_flops);
  EXPECT_GT(of(config).bytes, small.bytes - 4.0 * 4 * 3 * trainable_parameters(emoji()));
  config = emoji();
  config.validation.steps = 10;
  EXPECT_GT(of(config).validation_flops, small.validation_flops);
}

TEST_F(Cost, ThePriceOfAnAdapterIsThatOfItsMatrices) {
  TrainConfig config = emoji();
  const TrialCost with = of(config);
  config.hypernetwork.widths = {160};  // the text alone, computed once
  const double all = with.training_flops, text = of(config).training_flops;
  const model::UNetCost unet = model::unet_cost(base_unet_config(kBase), 16, 16, 24);  // the base's prompts have 24 tokens
  double expected = 0;
  for (const auto& [width, numbers] : parameters_by_width(emoji())) {
    if (width != 160) expected += 3 * 2 * numbers * unet.read_tokens.at(width);
  }
  EXPECT_NEAR((all - text) / (1000.0 * 8), expected, 1e-6 * expected);
}

TEST_F(Cost, ABudgetIsTurnedIntoUpdates) {
  TrainConfig config = emoji();
  const double update = of(config).training_flops / 1000;
  config.train.max_tflops = 20.5 * update * 1e-12;
  const TrialCost cost = of(config);
  EXPECT_EQ(cost.updates, 20);
  EXPECT_DOUBLE_EQ(cost.training_flops, 20 * update);
  config.optim.learning_rate = "1e-3:7";
  EXPECT_EQ(of(config).updates, 7) << "the schedule may end earlier";
  config.train.max_tflops = 0.5 * update * 1e-12;
  EXPECT_THROW(of(config), InputError);
}

TEST_F(Cost, LayersReadTheTokensOfTheirLevel) {
  const model::UNetConfig unet = base_unet_config(kBase);
  const auto tokens = [&](const std::string& layer) { return model::tokens_read_by(layer, unet, 16, 20, 24); };
  EXPECT_EQ(tokens("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"), 8.0 * 10);
  EXPECT_EQ(tokens("up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q"), 8.0 * 10);
  EXPECT_EQ(tokens("up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"), 24.0);
  EXPECT_EQ(tokens("mid_block.attentions.0.proj_in"), 4.0 * 5);
  EXPECT_THROW(tokens("conv_in"), Error);
}

TEST_F(Cost, EpochsAreTurnedIntoUpdates) {
  TrainConfig config = emoji();
  config.train.num_train_epochs = 3;
  EXPECT_EQ(of(config).updates, 38);  // 3 passes over 100 images, 8 at a time
  config.data_options.subset = 32;
  EXPECT_EQ(of(config).updates, 12);
}

TEST_F(Cost, SpeedIsGivenElseReachedElseMeasured) {
  const std::vector<std::pair<std::string, std::string>> base{{"base", kBase.string()}};
  EXPECT_GT(estimate_speed(expand_grid(settings(base))).flops_per_s, 1e8);
  Grid grid = expand_grid(settings({base[0], {"sweep.tflops_per_s", "2.5"}}));
  EXPECT_DOUBLE_EQ(estimate_speed(grid).flops_per_s, 2.5e12);
  grid = expand_grid(settings(base));
  const std::filesystem::path folder = trial_folder(grid.sweep.output, grid.trials[0]);
  write_result(folder, 0.1);
  nlohmann::json result = store::read_json(folder / "result.json");
  result["seconds"] = 50.0;
  result["ranks"] = 2;
  store::write_json(folder / "result.json", result);
  const Speed speed = estimate_speed(grid);
  EXPECT_NE(speed.source.find("finished"), std::string::npos);
  const model::UNetConfig unet = base_unet_config(kBase);
  const TrainConfig& config = grid.trials[0].config;
  const TrialCost cost = trial_cost(config, data_size(config, unet), unet);
  EXPECT_NEAR(speed.flops_per_s, cost.tflops() * 1e12 / 100, 1);
}

}  // namespace
}  // namespace ldmtune::sweep
