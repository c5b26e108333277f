#include "sweep/guards.h"

#include <gtest/gtest.h>

#include "grid_of_pairs.h"

namespace ldmtune::sweep {
namespace {

std::vector<std::string> texts_of(const std::string& text) {
  std::vector<std::string> texts;
  for (const GuardedValue& value : guarded_values({"optim.learning_rate", text, "test"})) texts.push_back(value.text);
  return texts;
}

TEST(Guards, AreReadOnlyWhereThereIsACondition) {
  EXPECT_EQ(texts_of("(1e-3 | 3e-3) if method = lora or hypernetwork | 1e-2"),
            (std::vector<std::string>{"1e-3", "3e-3", "1e-2"}));
  EXPECT_TRUE(texts_of("1e-3 | 1e-2").empty());
  EXPECT_TRUE(texts_of("a cat if it rains | (a dog:1.2) | (a bird:1.1)").empty());
  EXPECT_TRUE(texts_of("\"a cat if method = lora\"").empty());
  const auto values = guarded_values({"optim.learning_rate", "1e-3 if method = lora or dreambooth | 1e-2", "test"});
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[0].condition->values, (std::vector<std::string>{"lora", "dreambooth"}));
  EXPECT_FALSE(values[1].condition.has_value());
}

TEST(Guards, EachMethodHasItsOwnRates) {
  const Grid grid = expand({{"method", "hypernetwork | lora | textual_inversion"},
                            {"optim.learning_rate", "(1e-3 | 3e-3) if method = hypernetwork | 1e-4 if method = lora"},
                            {"lora.rank", "4 | 8"},
                            {"sweep.conditions", "lora.rank if method = lora"},
                            {"sweep.seeds", "0,1"}});
  std::vector<std::string> found;
  for (const Trial& trial : grid.trials) {
    if (trial.config.train.seed == 0)
      found.push_back(trial.config.method + " " + trial.config.optim.learning_rate + " " +
                      std::to_string(trial.config.lora.rank));
  }
  EXPECT_EQ(found, (std::vector<std::string>{"hypernetwork 1e-3 8", "hypernetwork 3e-3 8", "lora 1e-4 4",
                                             "lora 1e-4 8", "textual_inversion 5e-3 8"}));
  EXPECT_EQ(grid.trials.size(), 10u);
  EXPECT_EQ(grid.trials.back().inactive, (std::set<std::string>{"lora.rank", "optim.learning_rate"}));
}

TEST(Guards, ASingleValueMayHaveACondition) {
  const Grid grid = expand({{"method", "lora | dreambooth"}, {"train.micro_batch_size", "2 if method = dreambooth"}});
  ASSERT_EQ(grid.trials.size(), 2u);
  EXPECT_EQ(grid.trials[0].config.train.micro_batch_size, 1);
  EXPECT_EQ(grid.trials[1].config.train.micro_batch_size, 2);
  EXPECT_EQ(grid.trials[0].id, expand({{"method", "lora"}}).trials[0].id) << "what does not count leaves the id alone";
}

TEST(Guards, SayWhatIsWrong) {
  EXPECT_NE(error_of({{"optim.learning_rate", "1e-3 if methud = lora"}}).find("method"), std::string::npos);
  EXPECT_NE(error_of({{"optim.learning_rate", "1e-3 if train.seed = many"}}).find("train.seed"), std::string::npos);
  EXPECT_NE(error_of({{"optim.learning_rate", "log_uniform(1e-4, 1e-2) if method = lora"}}).find("draw"),
            std::string::npos);
  EXPECT_NE(error_of({{"lora.rank", "4 if lora.alpha = 2"}, {"lora.alpha", "2 if method = lora"}}).find("lora.alpha"),
            std::string::npos);
  EXPECT_NE(error_of({{"lora.rank", "4 if method = lora"}, {"sweep.conditions", "lora.rank if method = lora"}})
                .find("lora.rank"),
            std::string::npos);
}

}  // namespace
}  // namespace ldmtune::sweep
