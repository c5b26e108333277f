#include "adapt/activations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace ldmtune::adapt {
namespace {

float at_point(const std::string& name, double x) { return activate(name, at::full({1}, x, at::kFloat)).item<float>(); }

TEST(Activations, HaveTheirDefaultArguments) {
  EXPECT_FLOAT_EQ(at_point("linear", -1.7), -1.7f);
  EXPECT_FLOAT_EQ(at_point("relu", -1.7), 0.0f);
  EXPECT_FLOAT_EQ(at_point("leakyrelu", -2), -0.02f);
  EXPECT_FLOAT_EQ(at_point("rrelu", -24), -5.5f);
  EXPECT_FLOAT_EQ(at_point("relu6", 9), 6.0f);
  EXPECT_FLOAT_EQ(at_point("hardtanh", 9), 1.0f);
  EXPECT_FLOAT_EQ(at_point("elu", -1), std::exp(-1.0f) - 1.0f);
  EXPECT_FLOAT_EQ(at_point("hardshrink", 0.4), 0.0f);
  EXPECT_FLOAT_EQ(at_point("softshrink", 2), 1.5f);
  EXPECT_FLOAT_EQ(at_point("softsign", -3), -0.75f);
  EXPECT_FLOAT_EQ(at_point("tanhshrink", 1), 1.0f - std::tanh(1.0f));
}

TEST(Activations, SwishIsHardswishAsInA1111) {
  EXPECT_FLOAT_EQ(at_point("swish", 1), 4.0f / 6.0f);
  EXPECT_FLOAT_EQ(at_point("swish", 1), at_point("hardswish", 1));
  EXPECT_NE(at_point("swish", 1), at_point("silu", 1));
}

TEST(Activations, AllKeepShapeAndGiveGradients) {
  for (const std::string& name : activation_names()) {
    const at::Tensor x = at::linspace(-2.9, 3.1, 24).reshape({2, 3, 4}).requires_grad_();
    const at::Tensor y = activate(name, x);
    EXPECT_EQ(y.sizes(), x.sizes()) << name;
    y.sum().backward();
    EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>()) << name;
  }
  EXPECT_TRUE(std::is_sorted(activation_names().begin(), activation_names().end()));
}

TEST(Activations, UnknownNamesAreAnsweredWithTheList) {
  for (const std::string name : {"ReLU", "softmax", "multiheadattention", "prelu", ""}) try {
      activate(name, at::zeros({1}));
      FAIL() << name;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("'" + name + "'"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("leakyrelu, linear, logsigmoid"), std::string::npos);
    }
}

}  // namespace
}  // namespace ldmtune::adapt
