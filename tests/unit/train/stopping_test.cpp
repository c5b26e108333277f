#include "train/stopping.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace ldmtune::train {
namespace {

StopConfig dvar(std::int64_t every, std::int64_t window, double threshold = 0.15) {
  StopConfig config;
  config.rule = "dvar";
  config.every = every;
  config.window = window;
  config.threshold = threshold;
  return config;
}

TEST(Stopping, ComparesTheWindowsVarianceWithThatOfAllValues) {
  StoppingRule rule(dvar(5, 10));
  EXPECT_TRUE(rule.is_due(0));
  EXPECT_FALSE(rule.is_due(4));
  rule.add({0, 4.0});
  EXPECT_FALSE(rule.ratio().has_value()) << "a window of two values";
  rule.add({5, 2.0});
  EXPECT_DOUBLE_EQ(*rule.ratio(), 1.0);
  rule.add({10, 1.0});
  // var(2, 1) = 1/4; var(4, 2, 1) = (4 - 7/3)^2 + (2 - 7/3)^2 + (1 - 7/3)^2 over 3 = 14/9
  EXPECT_DOUBLE_EQ(*rule.ratio(), 9.0 / 56);
  EXPECT_FALSE(rule.says_stop());
  rule.add({15, 1.0});
  EXPECT_EQ(*rule.ratio(), 0.0);
  EXPECT_TRUE(rule.says_stop());
}

TEST(Stopping, DecidesByItsValuesAlone) {
  StoppingRule rule(dvar(1, 2));
  for (const double loss : {1.0, 0.5, 0.5}) rule.add({static_cast<std::int64_t>(rule.values().size()), loss});
  StoppingRule resumed(dvar(1, 2));
  resumed.restore(rule.values());
  EXPECT_EQ(resumed.values(), rule.values());
  EXPECT_TRUE(resumed.says_stop());
  StoppingRule patient(dvar(1, 3));
  patient.restore(rule.values());
  EXPECT_FALSE(patient.says_stop()) << "another window of the same values";
}

TEST(Stopping, ALossThatNeverMovedSaysNothing) {
  StoppingRule rule(dvar(1, 2));
  for (std::int64_t step = 0; step < 5; ++step) rule.add({step, 0.25});
  EXPECT_FALSE(rule.ratio().has_value());
  EXPECT_FALSE(rule.says_stop());
}

TEST(Stopping, WithoutARuleNothingIsDue) {
  const StoppingRule rule{StopConfig{}};
  EXPECT_FALSE(rule.is_due(0));
  EXPECT_FALSE(rule.says_stop());
}

TEST(Stopping, OptionsAreChecked) {
  EXPECT_THROW(StoppingRule(dvar(0, 10)), InputError);
  EXPECT_THROW(StoppingRule(dvar(10, 19)), InputError);
  EXPECT_THROW(StoppingRule(dvar(1, 10, 1.0)), InputError);
  EXPECT_THROW(StoppingRule(dvar(1, 10, 0.0)), InputError);
  StopConfig unknown;
  unknown.rule = "patience";
  EXPECT_THROW(StoppingRule{unknown}, InputError);
}

}  // namespace
}  // namespace ldmtune::train
