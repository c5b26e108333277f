#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

std::string message_of(const std::string& text) {
  try {
    PiecewiseSchedule(text, "optim.learning_rate");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(PiecewiseSchedule, PiecesHoldBelowTheirEnd) {
  const PiecewiseSchedule schedule("0.005:100, 1e-3:1000, 1e-5", "option");
  EXPECT_EQ(schedule.at(0), 0.005);
  EXPECT_EQ(schedule.at(99), 0.005);
  EXPECT_EQ(schedule.at(100), 1e-3);
  EXPECT_EQ(schedule.at(999), 1e-3);
  EXPECT_EQ(schedule.at(1000), 1e-5);
  EXPECT_EQ(schedule.at(1'000'000'000'000), 1e-5);
  EXPECT_FALSE(schedule.last_update().has_value());
  EXPECT_FALSE(schedule.is_constant());
}

TEST(PiecewiseSchedule, TheLastPieceMayEnd) {
  const PiecewiseSchedule schedule("1e-3:10,5e-4:20", "option");
  EXPECT_EQ(schedule.last_update(), 20);
  EXPECT_EQ(schedule.at(19), 5e-4);
  EXPECT_EQ(schedule.at(25), 5e-4);
}

TEST(PiecewiseSchedule, WaysToSayForEver) {
  for (const char* text : {"2e-3", "2e-3:-1", " 2e-3 : -1 ,", "+2e-3"}) {
    const PiecewiseSchedule schedule(text, "option");
    EXPECT_TRUE(schedule.is_constant()) << text;
    EXPECT_EQ(schedule.at(12345), 2e-3) << text;
  }
  EXPECT_EQ(PiecewiseSchedule("0", "option").at(0), 0) << "0 is how clipping is turned off";
}

TEST(PiecewiseSchedule, BadPiecesAreNamed) {
  for (const auto& [text, found] : std::vector<std::pair<std::string, std::string>>{
           {"", "holds no value"},
           {" , ", "holds no value"},
           {"fast", "'fast' is not a number"},
           {"1e-3x", "'1e-3x' is not a number"},
           {"0x10", "is not a number"},
           {"nan", "'nan' is not finite"},
           {"inf:10, 1e-3", "'inf:10' is not finite"},
           {"1e999", "is not a number"},
           {"1e-3:10, -1e-4", "'-1e-4' is negative"},
           {"1e-3:ten", "does not end at an update"},
           {"1e-3:", "does not end at an update"},
           {"1e-3:0", "does not end at an update"},
           {"1e-3:-2", "does not end at an update"},
           {"1e-3:1.5", "does not end at an update"},
           {"1e-3:99999999999999999999", "does not end at an update"},
           {"1e-3:10:20", "does not end at an update"},
           {"1e-3:100, 1e-4:100", "does not end after the piece before it (100)"},
           {"1e-3, 1e-4", "'1e-4' is never reached"},
       }) {
    const std::string message = message_of(text);
    EXPECT_NE(message.find(found), std::string::npos) << text << " -> " << message;
    EXPECT_NE(message.find("optim.learning_rate"), std::string::npos) << message;
  }
}

TEST(LearningRateSchedule, Constant) {
  const LearningRateSchedule schedule("1e-4", "constant", 0, 100);
  EXPECT_EQ(schedule.at(0), 1e-4);
  EXPECT_EQ(schedule.at(1000), 1e-4);
}

TEST(LearningRateSchedule, WarmupRisesFromZero) {
  for (const char* shape : {"constant_with_warmup", "linear", "cosine"}) {
    const LearningRateSchedule schedule("1e-4", shape, 10, 100);
    EXPECT_EQ(schedule.at(0), 0) << shape;
    EXPECT_DOUBLE_EQ(schedule.at(5), 0.5e-4) << shape;
    EXPECT_DOUBLE_EQ(schedule.at(10), 1e-4) << shape;
  }
}

TEST(LearningRateSchedule, LinearAndCosineEndAtZero) {
  const LearningRateSchedule linear("2", "linear", 10, 110), cosine("2", "cosine", 10, 110);
  EXPECT_DOUBLE_EQ(linear.at(60), 1);
  EXPECT_NEAR(cosine.at(35), 1 + std::cos(std::numbers::pi / 4), 1e-12);
  for (const std::int64_t end : {110, 111, 10'000}) EXPECT_EQ(linear.at(end), 0);
  EXPECT_NEAR(cosine.at(110), 0, 1e-12);
}

TEST(LearningRateSchedule, ShapesMultiplyThePieces) {
  const LearningRateSchedule schedule("1:50, 0.1:100", "linear", 0, 100);
  EXPECT_DOUBLE_EQ(schedule.at(25), 0.75);
  EXPECT_DOUBLE_EQ(schedule.at(50), 0.05);
  EXPECT_EQ(schedule.last_update(), 100);
}

TEST(LearningRateSchedule, BadSettingsAreNamed) {
  EXPECT_THROW(LearningRateSchedule("1e-4", "polynomial", 0, 10), InputError);
  EXPECT_THROW(LearningRateSchedule("1e-4", "linear", -1, 10), InputError);
  EXPECT_THROW(LearningRateSchedule("1e-4", "constant", 5, 10), InputError) << "constant would ignore the warm-up";
}

}  // namespace
}  // namespace ldmtune::optim
