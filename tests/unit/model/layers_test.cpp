#include "model/layers.h"

#include <gtest/gtest.h>

#include "expect_error.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

TEST(Linear, StoredAsPointwiseConvolutionIsThatConvolution) {
  Weights weights = random_weights();
  const Linear linear(weights, "proj", 5, 7, Linear::Bias::yes, Linear::Stored::pointwise_conv);
  const at::Tensor image = random_normal({2, 5, 3, 4}, 1);
  const at::Tensor expected = at::conv2d(image, weights.taken().at("proj.weight"), weights.taken().at("proj.bias"));
  const at::Tensor tokens = linear.forward(image.flatten(2).transpose(1, 2));
  EXPECT_TRUE(at::allclose(tokens.transpose(1, 2).unflatten(2, {3, 4}), expected, 1e-5, 1e-6));
}

TEST(Linear, TrainsTheTensorOfTheParameterMap) {
  for (const auto stored : {Linear::Stored::matrix, Linear::Stored::pointwise_conv}) {
    Weights weights = random_weights();
    const Linear linear(weights, "proj", 5, 7, Linear::Bias::yes, stored);
    const at::Tensor weight = weights.taken().at("proj.weight");
    weight.set_requires_grad(true);  // after construction: a view kept by the layer would not see it
    linear.forward(at::ones({1, 2, 5})).sum().backward();
    ASSERT_TRUE(weight.grad().defined());
    EXPECT_TRUE(at::equal(weight.grad(), at::full(weight.sizes(), 2.0)));
  }
}

TEST(Linear, LetsTheHookAddToItsOutput) {
  struct Doubling : ModelHooks {
    at::Tensor linear(const at::Tensor&, const at::Tensor& output, const std::string& name) override {
      seen = name;
      return output.to(at::kDouble) * 2.0;
    }
    std::string seen;
  } hooks;
  Weights weights = random_weights();
  const Linear linear(weights, "attn.to_q", 4, 4, Linear::Bias::no);
  const at::Tensor input = random_normal({3, 4}, 2);
  const at::Tensor hooked = linear.forward(input, &hooks);
  EXPECT_TRUE(at::allclose(hooked, 2.0 * linear.forward(input)));
  EXPECT_EQ(hooked.scalar_type(), at::kFloat) << "a hook's own dtype must not spread through the network";
  EXPECT_EQ(hooks.seen, "attn.to_q");
}

TEST(Conv2d, KeepsTheSizeByDefaultAndFollowsItsGeometry) {
  Weights weights = random_weights();
  const at::Tensor image = random_normal({1, 2, 6, 5}, 3);
  EXPECT_EQ(Conv2d(weights, "same", 2, 3).forward(image).sizes(), (at::IntArrayRef{1, 3, 6, 5}));
  const Conv2d strided(weights, "strided", 2, 3, {.kernel = 3, .stride = 2, .padding = 1});
  EXPECT_EQ(strided.forward(image).sizes(), (at::IntArrayRef{1, 3, 3, 3}));
}

TEST(GroupNorm, NormalizesEachGroup) {
  Weights weights([](const std::string& key,
                     at::IntArrayRef shape) { return at::full(shape, key.ends_with(".weight") ? 1.0 : 0.5); },
                  "made");
  const GroupNorm norm(weights, "norm", 2, 4, 0.0);
  const at::Tensor grouped = norm.forward(random_normal({1, 4, 5, 5}, 4) * 3.0 + 1.0).reshape({2, -1});
  EXPECT_TRUE(at::allclose(grouped.mean(1), at::full({2}, 0.5), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(grouped.std(1, /*unbiased=*/false), at::ones({2}), 1e-4));
}

TEST(GroupNorm, NamesChannelsThatDoNotDivide) {
  Weights weights = random_weights();
  expect_input_error([&] { GroupNorm(weights, "mid.norm", 32, 48, 1e-5); }, {"norm_num_groups = 32", "mid.norm", "48"});
}

TEST(LayerNorm, NormalizesTheLastDimension) {
  Weights weights = random_weights();
  const LayerNorm norm(weights, "norm", 6, 1e-5);
  const at::Tensor input = random_normal({2, 3, 6}, 5);
  const at::Tensor centred = input - input.mean(-1, true);
  const at::Tensor expected =
      centred / at::sqrt(centred.pow(2).mean(-1, true) + 1e-5) * weights.taken().at("norm.weight") +
      weights.taken().at("norm.bias");
  EXPECT_TRUE(at::allclose(norm.forward(input), expected, 1e-5, 1e-5));
}

TEST(Activation, FollowsItsFormula) {
  const at::Tensor x = at::linspace(-4, 4, 41);
  EXPECT_TRUE(at::allclose(activate(x, Activation::silu), x * at::sigmoid(x)));
  EXPECT_TRUE(at::allclose(activate(x, Activation::quick_gelu), x / (1.0 + at::exp(-1.702 * x))));
  EXPECT_TRUE(at::allclose(activate(x, Activation::gelu), 0.5 * x * (1.0 + at::erf(x / std::sqrt(2.0))), 1e-4, 1e-6));
  EXPECT_TRUE(at::allclose(activate(x, Activation::mish), x * at::tanh(at::log1p(at::exp(x)))));
  EXPECT_TRUE(at::allclose(activate(x, Activation::relu), at::clamp_min(x, 0.0)));
}

TEST(Activation, IsReadByName) {
  const nlohmann::json object{{"a", "swish"}, {"b", "gelu"}, {"c", "softplus"}};
  ConfigReader config(object, "UNet");
  EXPECT_EQ(read_activation(config, "a"), Activation::silu);
  EXPECT_EQ(read_activation(config, "b"), Activation::gelu);
  EXPECT_EQ(read_activation(config, "absent"), Activation::silu);
  expect_input_error([&] { read_activation(config, "c"); }, {"c = \"softplus\"", "silu"});
}

}  // namespace
}  // namespace ldmtune::model
