#include "sweep/grid.h"

#include <gtest/gtest.h>

#include <set>

#include "grid_of_pairs.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

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

TEST(Grid, ZippedOptionsChangeTogether) {
  const Grid grid = expand({{"hypernetwork.layer_structure", "1,2,1 | 1,2,4,2,1"},
                            {"hypernetwork.layer_norm", "false | true"},
                            {"optim.learning_rate", "1e-3 | 1e-4"},
                            {"sweep.zip", "hypernetwork.layer_structure, optim.learning_rate"}});
  ASSERT_EQ(grid.trials.size(), 4u);
  EXPECT_EQ(grid.varied.size(), 3u);
  for (const Trial& trial : grid.trials) {
    EXPECT_EQ(trial.config.optim.learning_rate,
              trial.config.hypernetwork.layer_structure.size() == 3 ? "1e-3" : "1e-4");
  }
}

TEST(Grid, AConditionedOptionVariesOnlyWhereItCounts) {
  const Pairs pairs{{"hypernetwork.layer_norm_init", "ones | zero_last"},
                    {"hypernetwork.layer_norm", "false | true"},
                    {"sweep.conditions", "hypernetwork.layer_norm_init if hypernetwork.layer_norm = true"}};
  const Grid grid = expand(pairs);
  ASSERT_EQ(grid.trials.size(), 3u);
  EXPECT_EQ(grid.trials[0].inactive, (std::set<std::string>{"hypernetwork.layer_norm_init"}));
  EXPECT_EQ(grid.trials[0].config.hypernetwork.layer_norm_init, TrainConfig{}.hypernetwork.layer_norm_init);
  EXPECT_EQ(grid.trials[1].config.hypernetwork.layer_norm_init, "ones");
  EXPECT_EQ(grid.trials[2].config.hypernetwork.layer_norm_init, "zero_last");
  EXPECT_EQ(grid.trials[0].id, expand({}).trials[0].id) << "what does not count does not change the id";
  EXPECT_EQ(grid.trials[2].number, 2);
}

TEST(Grid, ConditionsMayNameSeveralValuesAndChain) {
  const Grid grid = expand({{"hypernetwork.layer_structure", "1,2,1 | 1, 2, 2, 1 | 1,2,4,2,1"},
                            {"hypernetwork.weight_init", "Normal | XavierNormal"},
                            {"hypernetwork.activation", "swish"},
                            {"sweep.conditions",
                             "hypernetwork.weight_init if hypernetwork.layer_structure = 1,2,2,1 or 1,2,4,2,1 | "
                             "hypernetwork.activation if hypernetwork.weight_init = XavierNormal"}});
  ASSERT_EQ(grid.trials.size(), 5u);
  EXPECT_EQ(grid.trials[0].config.hypernetwork.activation, "linear");
  EXPECT_EQ(grid.trials[2].config.hypernetwork.activation, "swish");
}

TEST(Grid, DrawsAreKeyedSoThatMoreKeepTheFirst) {
  const Pairs pairs{{"optim.learning_rate", "log_uniform(1e-4, 1e-2)"},
                    {"optim.adam_weight_decay", "uniform(0, 0.1)"},
                    {"hypernetwork.layer_norm", "false | true"},
                    {"sweep.draws", "4"}};
  const Grid few = expand(pairs);
  ASSERT_EQ(few.trials.size(), 8u) << "each draw with and without layer norm";
  Pairs more = pairs;
  more.back().second = "6";
  const Grid many = expand(more);
  std::set<std::string> ids, rates;
  for (const Trial& trial : many.trials) ids.insert(trial.id);
  for (const Trial& trial : few.trials) {
    EXPECT_TRUE(ids.count(trial.id));
    rates.insert(trial.config.optim.learning_rate);
    const double rate = std::stod(trial.config.optim.learning_rate);
    EXPECT_TRUE(rate >= 1e-4 && rate <= 1e-2) << rate;
    EXPECT_LE(trial.config.optim.adam_weight_decay, 0.1);
  }
  EXPECT_EQ(rates.size(), 4u);
  Pairs other = pairs;
  other.emplace_back("sweep.draw_seed", "1");
  EXPECT_NE(expand(other).trials[0].config.optim.learning_rate, few.trials[0].config.optim.learning_rate);
}

TEST(Grid, DrawsOfIntegersAndChoicesStayInRangeAndRepeatsAreTakenOnce) {
  const Grid grid = expand({{"train.global_batch_size", "integer(2, 4)"}, {"sweep.draws", "60"}});
  ASSERT_EQ(grid.trials.size(), 3u);
  std::set<std::int64_t> sizes;
  for (const Trial& trial : grid.trials) sizes.insert(trial.config.train.global_batch_size);
  EXPECT_EQ(sizes, (std::set<std::int64_t>{2, 3, 4}));
  EXPECT_EQ(expand({{"hypernetwork.layer_structure", "choice(1,2,1; 1,4,1)"}, {"sweep.draws", "40"}}).trials.size(),
            2u);
}

TEST(Grid, SubsetDrawsAreReplicatesCrossedOrZipped) {
  const Pairs pairs{{"data.subset", "32 | 128"}, {"sweep.seeds", "0,1"}, {"sweep.subset_seeds", "7,8"}};
  EXPECT_EQ(expand(pairs).trials.size(), 8u);
  Pairs zipped = pairs;
  zipped.emplace_back("sweep.replicates", "zipped");
  const Grid grid = expand(zipped);
  ASSERT_EQ(grid.trials.size(), 4u);
  EXPECT_EQ(grid.trials[1].config.data_options.subset_seed, 8u);
  EXPECT_EQ(grid.trials[1].config.train.seed, 1u);
  EXPECT_EQ(grid.trials[1].varied, (Pairs{{"data.subset", "32"}}));
}

TEST(Grid, RefusesPlansThatCannotBeMeant) {
  const std::pair<const char*, const char*> norm{"hypernetwork.layer_norm", "false | true"};
  const std::string zip_two =
      error_of({norm, {"train.seed", "1 | 2 | 3"}, {"sweep.zip", "hypernetwork.layer_norm, train.seed"}});
  EXPECT_NE(zip_two.find("found 2 of hypernetwork.layer_norm and 3 of train.seed"), std::string::npos) << zip_two;
  EXPECT_NE(error_of({norm, {"sweep.zip", "hypernetwork.layer_norm, train.seed"}}).find("train.seed"),
            std::string::npos);
  EXPECT_NE(error_of({norm, {"sweep.conditions", "hypernetwork.layer_norm_init"}}).find("sweep.conditions"),
            std::string::npos);
  EXPECT_NE(
      error_of({norm, {"sweep.conditions", "train.seed if hypernetwork.layer_norm = true"}}).find("given nowhere"),
      std::string::npos);
  EXPECT_NE(error_of({norm, {"sweep.conditions", "hypernetwork.layer_norm if train.sed = 3"}}).find("train.seed"),
            std::string::npos);
  EXPECT_NE(error_of({norm,
                      {"train.seed", "3"},
                      {"sweep.conditions", "hypernetwork.layer_norm if train.seed = 3 | train.seed if data.seed = 0"}})
                .find("must stand before"),
            std::string::npos);
  EXPECT_NE(error_of({{"optim.learning_rate", "log_uniform(1e-4, 1e-2)"}}).find("sweep.draws"), std::string::npos);
  EXPECT_NE(error_of({{"optim.learning_rate", "log_uniform(0, 1)"}, {"sweep.draws", "2"}}).find("above 0"),
            std::string::npos);
  EXPECT_NE(error_of({{"optim.learning_rate", "uniform(2)"}, {"sweep.draws", "2"}}).find("lowest"), std::string::npos);
  EXPECT_NE(error_of({norm, {"sweep.draws", "2"}}).find("no option is drawn"), std::string::npos);
  EXPECT_NE(error_of({{"sweep.replicates", "sideways"}}).find("crossed or zipped"), std::string::npos);
  EXPECT_NE(
      error_of({{"sweep.replicates", "zipped"}, {"sweep.seeds", "1,2"}, {"sweep.subset_seeds", "1"}}).find("2 and 1"),
      std::string::npos);
  EXPECT_NE(error_of({{"output", "choice(a; b)"}, {"sweep.draws", "2"}}).find("option output"), std::string::npos);
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
  EXPECT_NE(error_of({{"sweep.picture_trials", "-1"}}).find("sweep.picture_trials"), std::string::npos);
}

TEST(Grid, RefusesATooLargeGridWithoutBuildingIt) {
  std::string many = "0";
  for (int i = 1; i < 200; ++i) many += " | " + std::to_string(i);
  EXPECT_NE(error_of({{"train.seed", many}, {"data.seed", many}, {"sample.seed", many}}).find("10000"),
            std::string::npos);
}

}  // namespace
}  // namespace ldmtune::sweep
