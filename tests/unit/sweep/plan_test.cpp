#include "sweep/plan.h"

#include <nlohmann/json.hpp>

#include "model/base_model.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

const fs::path kBase = fs::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base";

class PlanTest : public SweepTest {
 protected:
  Grid grid(std::vector<std::pair<std::string, std::string>> more = {}) {
    more.insert(more.begin(), {"base", kBase.string()});
    return expand_grid(settings(more));
  }
  fs::path write_unet(const std::string& text) {
    fs::create_directories(root_ / "base" / "unet");
    store::write_text(root_ / "base" / "unet" / "config.json", text);
    return root_ / "base";
  }
};

TEST_F(PlanTest, WidthsAreThoseOfTheModel) {
  model::BaseModelOptions options;
  options.vae = options.text = false;
  EXPECT_EQ(base_context_widths(kBase), model::load_base_model(kBase, options).unet->context_widths());
}

TEST_F(PlanTest, StableDiffusionOneHasFourWidthsAndItsKnownSizes) {
  const fs::path base = write_unet(R"({"cross_attention_dim": 768})");
  EXPECT_EQ(base_context_widths(base), (std::set<std::int64_t>{320, 640, 768, 1280}));
  TrainConfig config;
  config.base = base;
  EXPECT_NEAR(static_cast<double>(trainable_parameters(config)) / 1e6, 21.9, 0.05);
  config.hypernetwork.layer_structure = {1, 2, 4, 2, 1};
  EXPECT_NEAR(static_cast<double>(trainable_parameters(config)) / 1e6, 109.7, 0.1);
}

TEST_F(PlanTest, LevelsWithoutAttentionGiveNoWidth) {
  const fs::path base = write_unet(R"({"cross_attention_dim": 160, "block_out_channels": [32, 64, 96],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]})");
  EXPECT_EQ(base_context_widths(base), (std::set<std::int64_t>{64, 96, 160}));
}

TEST_F(PlanTest, ABadUnetConfigIsNamed) {
  for (const char* text : {"[]", R"({"block_out_channels": "many"})", R"({"block_out_channels": [32]})"}) {
    const fs::path base = write_unet(text);
    try {
      base_context_widths(base);
      FAIL() << text;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("config.json"), std::string::npos);
    }
  }
}

TEST_F(PlanTest, TableListsTrialsWithoutWriting) {
  const Grid planned = grid({{"train.max_train_steps", "300"}, {"optim.learning_rate", "1e-3:200, 1e-4:250"}});
  const std::string table = plan_table(planned);
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 8) << table;
  EXPECT_NE(table.find("4 trials, "), std::string::npos) << table;
  EXPECT_NE(table.find("measured on this machine"), std::string::npos) << table;
  EXPECT_NE(table.find("hypernetwork.layer_structure"), std::string::npos);
  EXPECT_NE(table.find(planned.trials[3].id + "  1,2,4,2,1"), std::string::npos);
  EXPECT_NE(table.find("250"), std::string::npos) << "the schedule ends training first";
  EXPECT_FALSE(fs::exists(planned.sweep.output));
}

TEST_F(PlanTest, EpochsAreSaidAsEpochs) {
  TrainConfig config;
  config.train.num_train_epochs = 2;
  EXPECT_EQ(training_length(config), "2 epochs");
}

TEST_F(PlanTest, ABadTrialIsFoundBeforeAnyRuns) {
  try {
    plan_table(grid({{"hypernetwork.layer_structure", "1,2,1 | 1,2,3"}}));
    FAIL() << "a structure that does not end with 1 was planned";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("trial 2"), std::string::npos) << error.what();
  }
  const Grid planned = grid();
  EXPECT_THROW(check_trials(chosen_trials(planned, std::nullopt), 1), InputError) << "data/index.json is no dataset";
}

TEST_F(PlanTest, RanksAreCheckedAgainstTheTrialWithTheFewestLeaves) {
  const Grid planned = grid({{"hypernetwork.layer_norm", "false"},
                             {"hypernetwork.layer_structure", "1,2,1"},
                             {"train.global_batch_size", "8 | 4 | 16"},
                             {"train.micro_batch_size", "2"}});
  ASSERT_EQ(planned.trials.size(), 3u);
  EXPECT_NO_THROW(check_ranks(planned, 1));
  EXPECT_NO_THROW(check_ranks(planned, 2));
  for (const int ranks : {3, 4, 8}) {
    try {
      check_ranks(planned, ranks);
      FAIL() << ranks << " ranks share two leaves";
    } catch (const InputError& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find("trial 1: number of MPI ranks: expected one of 1, 2 "), std::string::npos) << said;
    }
  }
  EXPECT_THROW(check_ranks(grid({{"train.global_batch_size", "6"}, {"train.micro_batch_size", "2"}}), 1), InputError);
}

TEST_F(PlanTest, SweepJsonTellsTheAnalysisTheTrials) {
  const Grid planned = grid({{"sweep.seeds", "4"}});
  write_plan(planned);
  const nlohmann::json written = store::read_json(planned.sweep.output / "sweep.json");
  EXPECT_EQ(written.at("varied"), (nlohmann::json{"hypernetwork.layer_structure", "hypernetwork.layer_norm"}));
  ASSERT_EQ(written.at("trials").size(), 4u);
  const nlohmann::json& third = written.at("trials")[2];
  EXPECT_EQ(third.at("folder"), "trials/002-" + planned.trials[2].id);
  EXPECT_EQ(third.at("options").at("hypernetwork.layer_structure"), "1,2,4,2,1");
  EXPECT_EQ(third.at("seed"), 4);
  EXPECT_GT(third.at("trainable_parameters"), written.at("trials")[0].at("trainable_parameters"));
}

}  // namespace
}  // namespace ldmtune::sweep
