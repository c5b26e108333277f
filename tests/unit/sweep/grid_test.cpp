#include "sweep/grid.h"

#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

Grid expand(const Pairs& pairs) {
  std::vector<OptionSetting> settings{{"sweep.output", "runs/x", "test"}};
  for (const auto& [name, value] : pairs) settings.push_back({name, value, "test"});
  return expand_grid(settings);
}

std::string error_of(const Pairs& pairs) {
  try {
    expand(pairs);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Grid, IsTheProductInOrderWithTheLastOptionFastest) {
  const Grid grid =
      expand({{"optim.learning_rate", "1e-3 | 1e-4"}, {"hypernetwork.layer_structure", "1,2,1 | 1, 2, 4, 2, 1"}});
  ASSERT_EQ(grid.trials.size(), 4u);
  EXPECT_EQ(grid.trials[0].config.optim.learning_rate, "1e-3");
  EXPECT_EQ(grid.trials[1].config.optim.learning_rate, "1e-3");
  EXPECT_EQ(grid.trials[2].config.optim.learning_rate, "1e-4");
  EXPECT_EQ(grid.trials[1].config.hypernetwork.layer_structure, (std::vector<double>{1, 2, 4, 2, 1}));
  EXPECT_EQ(grid.trials[3].varied,
            (Pairs{{"optim.learning_rate", "1e-4"}, {"hypernetwork.layer_structure", "1,2,4,2,1"}}));
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(grid.trials[i].number, static_cast<std::int64_t>(i));
}

TEST(Grid, WithoutAlternativesHoldsOneTrial) {
  const Grid grid = expand({{"hypernetwork.layer_structure", "1,3,1"}});
  ASSERT_EQ(grid.trials.size(), 1u);
  EXPECT_TRUE(grid.varied.empty());
  EXPECT_TRUE(grid.trials[0].varied.empty());
}

TEST(Grid, KeepsQuotedBarsAndPromptLists) {
  const Grid grid = expand({{"caption.template", "\"a | b\" | [filewords]"}, {"sample.prompts", "a cat | a dog"}});
  ASSERT_EQ(grid.trials.size(), 2u);
  EXPECT_EQ(grid.trials[0].config.caption.template_text, "a | b");
  EXPECT_EQ(grid.trials[1].config.caption.template_text, "[filewords]");
  EXPECT_EQ(grid.trials[0].config.sample.prompts, (std::vector<std::string>{"a cat", "a dog"}));
}

TEST(Grid, AnEmptyAlternativeIsAValue) {
  const Grid grid = expand({{"hypernetwork.dropout_structure", " | 0,0.3,0"}});
  ASSERT_EQ(grid.trials.size(), 2u);
  EXPECT_TRUE(grid.trials[0].config.hypernetwork.dropout_structure.empty());
  EXPECT_EQ(grid.trials[1].config.hypernetwork.dropout_structure.size(), 3u);
}

TEST(Grid, ALaterSettingReplacesAnEarlierOneAtItsPlace) {
  const Grid grid = expand(
      {{"hypernetwork.layer_norm", "false | true"}, {"train.seed", "1 | 2"}, {"hypernetwork.layer_norm", "true"}});
  ASSERT_EQ(grid.trials.size(), 2u);
  EXPECT_TRUE(grid.trials[0].config.hypernetwork.layer_norm);
  EXPECT_EQ(grid.trials[1].config.train.seed, 2u);
}

TEST(Grid, SeedsAreReplicatesAndNoVariedOption) {
  const Grid grid = expand({{"hypernetwork.layer_norm", "false | true"}, {"sweep.seeds", "3, 5"}});
  ASSERT_EQ(grid.trials.size(), 4u);
  EXPECT_EQ(grid.varied.size(), 1u);
  EXPECT_EQ(grid.trials[0].config.train.seed, 3u);
  EXPECT_EQ(grid.trials[1].config.train.seed, 5u);
  EXPECT_EQ(grid.trials[0].varied, grid.trials[1].varied);
  EXPECT_NE(grid.trials[0].id, grid.trials[1].id);
}

TEST(Grid, TheIdDependsOnWhatIsTrainedAlone) {
  const std::string id = expand({}).trials[0].id;
  EXPECT_EQ(id.size(), 8u);
  EXPECT_EQ(expand({{"output", "elsewhere"}, {"train.stop_after", "3"}, {"train.resume_from_checkpoint", "latest"}})
                .trials[0]
                .id,
            id);
  EXPECT_EQ(expand({{"optim.adam_weight_decay", "0.010"}}).trials[0].id, id) << "the default written otherwise";
  EXPECT_NE(expand({{"optim.adam_weight_decay", "0.02"}}).trials[0].id, id);
  const Grid grown = expand({{"optim.adam_weight_decay", "0.02 | 0.01"}});
  EXPECT_EQ(grown.trials[1].id, id) << "a trial keeps its id when the grid grows";
}

TEST(Grid, IdsOfAThousandTrialsDiffer) {
  std::string seeds = "0";
  for (int i = 1; i < 1000; ++i) seeds += "," + std::to_string(i);
  std::set<std::string> ids;
  for (const Trial& trial : expand({{"sweep.seeds", seeds}}).trials) ids.insert(trial.id);
  EXPECT_EQ(ids.size(), 1000u);
}

TEST(Grid, RefusesWhatCannotBeMeant) {
  EXPECT_NE(error_of({{"output", "a | b"}}).find("option output"), std::string::npos);
  EXPECT_NE(error_of({{"hypernetwork.layer_structure", "1,2,1 | 1, 2, 1"}}).find("are the same"), std::string::npos);
  EXPECT_NE(error_of({{"hypernetwork.layer_structure", "1,2,1 | one"}}).find("layer_structure"), std::string::npos);
  EXPECT_NE(error_of({{"hypernetwork.layer_structur", "1,2,1"}}).find("nearest"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.output", ""}}).find("sweep.output"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.seeds", "1,x"}}).find("sweep.seeds"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.seeds", "1,1"}}).find("twice"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.seeds", "-1"}}).find("sweep.seeds"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.seeds", "1"}, {"train.seed", "1 | 2"}}).find("train.seed"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.pictures", "-1"}}).find("sweep.pictures"), std::string::npos);
}

TEST(Grid, RefusesATooLargeGridWithoutBuildingIt) {
  std::string many = "0";
  for (int i = 1; i < 200; ++i) many += " | " + std::to_string(i);
  EXPECT_NE(error_of({{"train.seed", many}, {"data.seed", many}, {"sample.seed", many}}).find("10000"),
            std::string::npos);
}

}  // namespace
}  // namespace ldmtune::sweep
