#include "model/recompute.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "model/unet_2d_condition.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

struct Gradients {
  at::Tensor output, input, condition, weight;
};

/// Output and gradients of a block with a weight of its own, which counts its calls.
Gradients gradients(bool recomputes, int& calls) {
  at::Tensor weight = at::linspace(-1, 1, 12).view({3, 4}).requires_grad_(true);
  const at::Tensor input = at::linspace(0, 2, 8).view({2, 4}).requires_grad_(true);
  const at::Tensor condition = at::linspace(1, 3, 6).view({2, 3}).requires_grad_(true);
  const Block block = [&](const std::vector<at::Tensor>& in) {
    ++calls;
    return at::silu(at::linear(in[0], weight)) * in[1];
  };
  const at::Tensor output = recomputes ? recompute_in_backward(block, {input, condition}) : block({input, condition});
  output.square().sum().backward();
  return {output.detach(), input.grad(), condition.grad(), weight.grad()};
}

TEST(Recompute, GivesTheSameOutputAndGradients) {
  int plain_calls = 0, calls = 0;
  const Gradients plain = gradients(false, plain_calls), again = gradients(true, calls);
  EXPECT_EQ(plain_calls, 1);
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(at::equal(plain.output, again.output));
  EXPECT_TRUE(at::equal(plain.input, again.input));
  EXPECT_TRUE(at::equal(plain.condition, again.condition));
  EXPECT_TRUE(at::equal(plain.weight, again.weight));
}

TEST(Recompute, FindsWhatTrainsInsideWhereNoInputNeedsAGradient) {
  at::Tensor weight = at::ones({3, 4}).requires_grad_(true);
  int calls = 0;
  const Block block = [&](const std::vector<at::Tensor>& in) {
    ++calls;
    return at::linear(in[0], weight) * in[1];
  };
  recompute_in_backward(block, {at::ones({2, 4}), at::ones({2, 3})}).sum().backward();
  EXPECT_EQ(weight.grad().sum().item<float>(), 24) << "the block's own weights must not be left without";
  EXPECT_EQ(calls, 2);
  weight.requires_grad_(false);
  EXPECT_FALSE(recompute_in_backward(block, {at::ones({2, 4}), at::ones({2, 3})}).requires_grad());
  EXPECT_EQ(calls, 3);
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(recompute_in_backward(block, {at::ones({2, 4}).requires_grad_(true), at::ones({2, 3})}).requires_grad());
}

TEST(Recompute, AddsTheGradientsOfSeveralUsesOneByOne) {
  // (1e8 + 1) - 1e8 is 0 in f32, 1e8 + (1 - 1e8) is not: the order of a sum shows.
  const auto gradient = [](bool apart) {
    const at::Tensor leaf = at::ones({1}).requires_grad_(true);
    const at::Tensor used = leaf * 1;
    const Block twice = [](const std::vector<at::Tensor>& in) { return in.front() * 1 + in.back() * -1e8; };
    const at::Tensor block = recompute_in_backward(twice, apart ? std::vector{used, used} : std::vector{used});
    (block + used * 1e8).sum().backward();
    return leaf.grad().item<float>();
  };
  EXPECT_EQ(gradient(true), 0);
  EXPECT_EQ(gradient(false), 1e8F + (1.0F - 1e8F));
}

store::TensorMap unet_gradients(bool checkpointing, ModelHooks* hooks = nullptr) {
  Weights weights = random_weights(at::kFloat);
  UNet2DConditionModel unet(small_unet_config(), weights);
  unet.set_gradient_checkpointing(checkpointing);
  for (const auto& [key, tensor] : unet.parameters()) tensor.requires_grad_(true);
  const at::Tensor text = random_normal({2, 5, 12}, 2).requires_grad_(true);
  unet.forward(random_normal({2, 4, 8, 8}, 1), at::tensor({3, 700}), text, hooks).square().mean().backward();
  store::TensorMap gradients{{"text", text.grad()}};
  for (const auto& [key, tensor] : unet.parameters()) gradients.emplace(key, tensor.grad());
  return gradients;
}

TEST(Recompute, AUNetsGradientsHaveTheSameBits) {
  struct Identity final : ModelHooks {
    bool is_identity() const override { return true; }
  } identity;
  struct Doubling final : ModelHooks {  // a tensor that all layers share
    void begin_forward() override { text.reset(); }
    KeyValueContext attention_context(const at::Tensor& context, const AttentionSite& site) override {
      if (!site.is_cross) return {context * 0.5, context};
      if (!text.defined()) text = at::silu(context);
      return {text, context};
    }
    at::Tensor text;
  } doubling;
  for (ModelHooks* hooks : {static_cast<ModelHooks*>(nullptr), static_cast<ModelHooks*>(&identity),
                            static_cast<ModelHooks*>(&doubling)}) {
    const store::TensorMap plain = unet_gradients(false, hooks), again = unet_gradients(true, hooks);
    for (const auto& [key, gradient] : plain) EXPECT_TRUE(at::equal(again.at(key), gradient)) << key;
  }
}

}  // namespace
}  // namespace ldmtune::model
