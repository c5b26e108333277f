#include "model/config_reader.h"

#include <gtest/gtest.h>

#include "expect_error.h"

namespace ldmtune::model {
namespace {

using nlohmann::json;

TEST(ConfigReader, TakesAbsentAndNullKeysAsTheDefault) {
  const json object{{"groups", nullptr}};
  ConfigReader config(object, "UNet");
  EXPECT_EQ(config.integer("groups", 32), 32);
  EXPECT_EQ(config.number("eps", 1e-5), 1e-5);
  EXPECT_EQ(config.text("act_fn", "silu"), "silu");
  EXPECT_TRUE(config.boolean("flip", true));
  EXPECT_EQ(config.integers("channels", {1, 2}), (std::vector<std::int64_t>{1, 2}));
}

TEST(ConfigReader, SpreadsOneValueOverTheLevels) {
  const json object{{"layers", 3}, {"heads", {5, 10}}, {"only", true}, {"mixed", {true, false}}};
  ConfigReader config(object, "UNet");
  EXPECT_EQ(config.integer_per_level("layers", 2, 2), (std::vector<std::int64_t>{3, 3}));
  EXPECT_EQ(config.integer_per_level("heads", 8, 2), (std::vector<std::int64_t>{5, 10}));
  EXPECT_EQ(config.integer_per_level("absent", 8, 2), (std::vector<std::int64_t>{8, 8}));
  EXPECT_EQ(config.boolean_per_level("only", false, 2), (std::vector<bool>{true, true}));
  EXPECT_EQ(config.boolean_per_level("mixed", false, 2), (std::vector<bool>{true, false}));
  expect_input_error([&] { config.integer_per_level("heads", 8, 3); }, {"UNet", "heads = [5,10]", "list of 3"});
}

TEST(ConfigReader, NamesKeyValueAndExpectedType) {
  const json object{{"text", "8"}, {"zero", 0},         {"fraction", 1.5},        {"huge", 1u << 31},
                    {"list", "a"}, {"mixed", {1, "a"}}, {"empty", json::array()}, {"nested", {{1}, {2}}}};
  ConfigReader config(object, "VAE of folder/vae");
  expect_input_error([&] { config.integer("text", 1); }, {"VAE of folder/vae", "text = \"8\"", "positive integer"});
  expect_input_error([&] { config.integer("zero", 1); }, {"zero = 0"});
  expect_input_error([&] { config.integer("fraction", 1); }, {"fraction = 1.5"});
  expect_input_error([&] { config.integer("huge", 1); }, {"huge = 2147483648"});
  expect_input_error([&] { config.boolean("text", true); }, {"true or false"});
  expect_input_error([&] { config.number("list", 1); }, {"a number"});
  expect_input_error([&] { config.text("zero", ""); }, {"a string"});
  expect_input_error([&] { config.integers("mixed", {}); }, {"mixed = [1,\"a\"]"});
  expect_input_error([&] { config.integers("empty", {}); }, {"empty = []"});
  expect_input_error([&] { config.integer_per_level("nested", 1, 2); }, {"nested = [[1],[2]]"});
  EXPECT_EQ(config.count("zero", 1), 0);
}

TEST(ConfigReader, AcceptsOnlyWhatIsBuilt) {
  const json object{{"type", "positional"}, {"other", "fourier"}, {"nothing", nullptr}};
  ConfigReader config(object, "UNet");
  config.only("type", {"positional"});
  config.only("nothing");
  config.only("absent");
  expect_input_error([&] { config.only("other", {"positional"}); }, {"other = \"fourier\"", "\"positional\""});
  expect_input_error([&] { config.only("type"); }, {"type = \"positional\"", "null"});
}

TEST(ConfigReader, NamesAnUnknownKeyThatAsksForSomething) {
  const json object{{"_class_name", "UNet"}, {"used", 1}, {"ignored", 2}, {"off", false}, {"none", nullptr}};
  ConfigReader config(object, "UNet");
  config.integer("used", 1);
  config.ignore("ignored");
  config.expect_all_known();
  const json asking{{"new_trick", 1}};
  expect_input_error([&] { ConfigReader(asking, "UNet").expect_all_known(); }, {"new_trick = 1"});
}

TEST(ConfigReader, RefusesWhatIsNoObject) {
  const json list = json::array();
  expect_input_error([&] { ConfigReader(list, "UNet"); }, {"UNet", "JSON object", "array"});
}

}  // namespace
}  // namespace ldmtune::model
