#include <gtest/gtest.h>

#include <limits>

#include "adapt/hypernetwork_layout.h"
#include "core/error.h"
#include "small_network.h"

namespace ldmtune::adapt {
namespace {

const std::set<std::int64_t> kBaseWidths{320, 640, 768, 1280};

std::string spelled(const HypernetworkSpec& spec, std::int64_t width) {
  std::string text;
  for (const SequentialModule& module : sequential_modules(spec, width)) {
    const char letter = "LAND"[static_cast<int>(module.kind)];
    text += letter + std::to_string(module.index) + ":" + std::to_string(module.out) + " ";
  }
  return text;
}

std::string error_of(const HypernetworkConfig& config) {
  try {
    HypernetworkSpec::from_config(config, kBaseWidths);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(HypernetworkLayout, IndicesCountEveryModulePresent) {
  HypernetworkSpec spec;
  spec.widths = {8};
  EXPECT_EQ(spelled(spec, 8), "L0:16 L1:8 ");
  spec.activation = "relu";
  EXPECT_EQ(spelled(spec, 8), "L0:16 A1:16 L2:8 ");
  spec.activate_output = true;
  EXPECT_EQ(spelled(spec, 8), "L0:16 A1:16 L2:8 A3:8 ");
  spec.layer_norm = true;
  EXPECT_EQ(spelled(spec, 8), "L0:16 A1:16 N2:16 L3:8 A4:8 N5:8 ");
  spec.dropout_structure = {0, 0.3, 0};
  EXPECT_EQ(spelled(spec, 8), "L0:16 A1:16 N2:16 D3:16 L4:8 A5:8 N6:8 ");
  spec.activation = "linear";
  EXPECT_EQ(spelled(spec, 8), "L0:16 N1:16 D2:16 L3:8 N4:8 ");
}

TEST(HypernetworkLayout, FractionsOfAWidthAreCutAsPythonsInt) {
  HypernetworkSpec spec;
  spec.layer_structure = {1, 0.3, 1};
  EXPECT_EQ(spelled(spec, 768), "L0:230 L1:768 ");
}

TEST(HypernetworkParameters, AreOrderedByWidthRoleIndexAndKind) {
  HypernetworkSpec spec;
  spec.widths = {12, 8};
  std::vector<std::string> names;
  for (const optim::ParameterSpec& parameter : Hypernetwork(spec).parameters()) {
    names.push_back(parameter.name);
    EXPECT_EQ(parameter.group, "hypernetwork");
  }
  ASSERT_EQ(names.size(), 16u);
  EXPECT_EQ(names[0], "8.k.linear.0.weight");
  EXPECT_EQ(names[1], "8.k.linear.0.bias");
  EXPECT_EQ(names[2], "8.k.linear.1.weight");
  EXPECT_EQ(names[4], "8.v.linear.0.weight");
  EXPECT_EQ(names[8], "12.k.linear.0.weight");
  EXPECT_EQ(Hypernetwork(spec).parameters()[0].shape, (std::vector<std::int64_t>{16, 8}));
}

TEST(HypernetworkParameters, HaveTheKnownSizeAtStableDiffusionsWidths) {
  HypernetworkSpec spec;
  spec.widths = kBaseWidths;
  const auto millions = [&] {
    std::int64_t elements = 0;
    for (const auto& parameter : Hypernetwork(spec).parameters()) elements += c10::multiply_integers(parameter.shape);
    return static_cast<double>(elements) / 1e6;
  };
  EXPECT_NEAR(millions(), 21.9, 0.05);
  spec.layer_structure = {1, 2, 4, 2, 1};
  EXPECT_NEAR(millions(), 109.7, 0.1);
}

TEST(HypernetworkSpec, TakesConfigAndAllWidthsOfTheBase) {
  HypernetworkConfig config;
  config.layer_structure = {1, 2, 4, 2, 1};
  config.dropout_structure = {0, 0.1, 0.2, 0.3, 0};
  const auto spec = HypernetworkSpec::from_config(config, kBaseWidths);
  EXPECT_EQ(spec.widths, kBaseWidths);
  EXPECT_EQ(spec.dropout_structure, config.dropout_structure);
  config.widths = {768, 320};
  EXPECT_EQ(HypernetworkSpec::from_config(config, kBaseWidths).widths, (std::set<std::int64_t>{320, 768}));
}

TEST(HypernetworkSpec, RefusesOddStructuresByName) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const std::vector<double>& structure : std::vector<std::vector<double>>{{},
                                                                               {1},
                                                                               {1, 2},
                                                                               {2, 1},
                                                                               {1, 0, 1},
                                                                               {1, -2, 1},
                                                                               {1, nan, 1},
                                                                               {1, infinity, 1},
                                                                               {1, 1e300, 1},
                                                                               {1, 1e-6, 1}}) {
    HypernetworkConfig config;
    config.layer_structure = structure;
    EXPECT_EQ(error_of(config).rfind("hypernetwork.layer_structure: ", 0), 0u) << error_of(config);
  }
}

TEST(HypernetworkSpec, RefusesOtherBadOptionsByNameAndWithTheList) {
  const auto refused = [](auto change, const std::string& beginning, const std::string& part) {
    HypernetworkConfig config;
    change(config);
    const std::string error = error_of(config);
    EXPECT_EQ(error.rfind(beginning, 0), 0u) << error;
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  refused([](auto& c) { c.activation = "rleu"; }, "hypernetwork.activation: ", "'rleu'; expected one of celu, elu");
  refused([](auto& c) { c.weight_init = "normal"; }, "hypernetwork.weight_init: ", "Normal, XavierUniform");
  refused([](auto& c) { c.layer_norm_init = "zeros"; }, "hypernetwork.layer_norm_init: ", "a1111, ones, zero_last");
  refused([](auto& c) { c.dropout_structure = {0, 1, 0}; }, "hypernetwork.dropout_structure: ", "[0, 1)");
  refused([](auto& c) { c.dropout_structure = {0, -0.1, 0}; }, "hypernetwork.dropout_structure: ", "-0.1");
  refused([](auto& c) { c.dropout_structure = {0, 0.3}; }, "hypernetwork.dropout_structure: ", "3 entries");
  refused([](auto& c) { c.dropout_structure = {0.3, 0, 0}; }, "hypernetwork.dropout_structure: ", "first");
  refused([](auto& c) { c.widths = {1024}; }, "hypernetwork.widths: ", "320, 640, 768, 1280, found 1024");
  refused([](auto& c) { c.widths = {768.5}; }, "hypernetwork.widths: ", "768.5");
}

TEST(Hypernetwork, RefusesASpecThatWasNeverChecked) {
  HypernetworkSpec spec;
  spec.layer_structure = {1, 2};
  EXPECT_THROW(Hypernetwork{spec}, InputError);
}

}  // namespace
}  // namespace ldmtune::adapt
