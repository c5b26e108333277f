#include "adapt/lora.h"

#include <gtest/gtest.h>

#include "adapt/chained_hooks.h"
#include "core/error.h"
#include "small_lora.h"

namespace ldmtune::adapt {
namespace {

const LoraModule& module_of(const Lora& lora, const std::string& full_name) {
  for (const LoraModule& module : lora.modules())
    if (module.site.full_name() == full_name) return module;
  fail("no module ", full_name);
}

/// output + alpha / rank * strength * B (A input), in doubles.
at::Tensor expected_sum(const SmallLora& small, const std::string& full_name, const at::Tensor& input,
                        const at::Tensor& output, double strength) {
  const LoraModule& module = module_of(small.lora, full_name);
  const at::Tensor down = small.arena->parameter(module.down_name()).flatten(1).to(at::kDouble);
  const at::Tensor up = small.arena->parameter(module.up_name()).flatten(1).to(at::kDouble);
  const double scale = module.alpha / static_cast<double>(module.rank) * strength;
  return output.to(at::kDouble) + scale * at::matmul(at::matmul(input.to(at::kDouble), down.t()), up.t());
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).abs().max() / b.abs().max()).item<double>();
}

TEST(Lora, HookAddsTheScaledProduct) {
  const SmallLora small;
  for (const double strength : {1.0, 0.3, -2.0}) {
    ForwardContext context;
    context.strength = strength;
    const auto hooks = small.lora.hooks(*small.arena, context);
    hooks->begin_forward();
    const at::Tensor x = normals({2, 5, 12}, 1), y = normals({2, 5, 8}, 2);
    EXPECT_LT(difference(hooks->linear(x, y, kMatrix), expected_sum(small, "unet." + kMatrix, x, y, strength)), 1e-6);
    // A 1x1 convolution's tokens come as a transposed view.
    const at::Tensor image = normals({2, 6, 10}, 3).transpose(1, 2), out = normals({2, 10, 8}, 4);
    EXPECT_LT(difference(hooks->linear(image, out, kPointwise),
                         expected_sum(small, "unet." + kPointwise, image, out, strength)),
              1e-6);
  }
}

TEST(Lora, OtherLayersAndStrengthZeroReturnTheVeryOutput) {
  const SmallLora small;
  const at::Tensor x = normals({1, 5, 12}, 1), y = normals({1, 5, 8}, 2);
  const auto hooks = small.lora.hooks(*small.arena, {});
  EXPECT_TRUE(hooks->linear(x, y, "mid_block.attentions.0.proj_out").is_same(y));
  ForwardContext context;
  context.strength = 0;
  EXPECT_TRUE(small.lora.hooks(*small.arena, context)->linear(x, y, kMatrix).is_same(y));
}

TEST(Lora, TextEncodersOfOneNameAreToldApart) {
  const SmallLora small;
  const auto hooks = small.lora.hooks(*small.arena, {});
  hooks->begin_text_encoder(1);
  const at::Tensor wide = normals({1, 5, 20}, 1);
  EXPECT_LT(difference(hooks->linear(wide, wide, kText), expected_sum(small, "text_encoder_2." + kText, wide, wide, 1)),
            1e-6);
  hooks->begin_text_encoder(0);
  const at::Tensor narrow = normals({1, 5, 12}, 2);
  EXPECT_LT(
      difference(hooks->linear(narrow, narrow, kText), expected_sum(small, "text_encoder." + kText, narrow, narrow, 1)),
      1e-6);
  hooks->begin_text_encoder(1);
  hooks->begin_forward();
  const at::Tensor y = normals({1, 5, 8}, 3);
  EXPECT_FALSE(hooks->linear(narrow, y, kMatrix).is_same(y)) << "the UNet's layers follow the second encoder";
  EXPECT_TRUE(small.lora.trains_text_encoder());
  EXPECT_FALSE(Lora({small.lora.modules().front()}).trains_text_encoder());
}

TEST(Lora, HalfPrecisionOutputsGrowInFloat) {
  const SmallLora small;
  const auto hooks = small.lora.hooks(*small.arena, {});
  const at::Tensor x = normals({1, 5, 12}, 1).to(at::kBFloat16), y = normals({1, 5, 8}, 2).to(at::kBFloat16);
  const at::Tensor sum = hooks->linear(x, y, kMatrix);
  EXPECT_EQ(sum.scalar_type(), at::kFloat);
  EXPECT_LT(difference(sum, expected_sum(small, "unet." + kMatrix, x, y, 1)), 1e-6);
}

TEST(Lora, GradientsReachBothFactorsInTheArena) {
  const SmallLora small;
  const auto hooks = small.lora.hooks(*small.arena, {});
  const at::Tensor x = normals({2, 5, 12}, 1), y = normals({2, 5, 8}, 2);
  hooks->linear(x, y, kMatrix).sum().backward();
  const auto gradients = small.arena->gradient_views();
  const LoraModule& module = module_of(small.lora, "unet." + kMatrix);
  EXPECT_GT(gradients.at(module.down_name()).abs().max().item<float>(), 0);
  EXPECT_GT(gradients.at(module.up_name()).abs().max().item<float>(), 0);
  EXPECT_EQ(gradients.at("unet." + kPointwise + ".lora_A.weight").abs().max().item<float>(), 0);
}

TEST(Lora, ParametersAreLaidOutByComponentWithThatGroup) {
  const SmallLora small;
  const auto specs = small.lora.parameters();
  ASSERT_EQ(specs.size(), 2 * small.lora.modules().size());
  EXPECT_EQ(specs[0].name, "unet." + kMatrix + ".lora_A.weight");
  EXPECT_EQ(specs[0].shape, (std::vector<std::int64_t>{1, 12}));
  EXPECT_EQ(specs[1].shape, (std::vector<std::int64_t>{8, 1}));
  EXPECT_EQ(specs[2].name, "unet." + kPointwise + ".lora_A.weight");
  EXPECT_EQ(specs[2].shape, (std::vector<std::int64_t>{2, 6, 1, 1}));
  EXPECT_EQ(specs[3].shape, (std::vector<std::int64_t>{8, 2, 1, 1}));
  EXPECT_EQ(specs[0].group, "unet");
  EXPECT_EQ(specs.back().group, "text_encoder_2");
}

TEST(Lora, AStartDependsOnSeedAndNameAlone) {
  const SmallLora all;
  const SmallLora one({all.lora.modules()[1]});
  all.lora.initialize(*all.arena, 5);
  one.lora.initialize(*one.arena, 5);
  const std::string down = one.lora.modules()[0].down_name();
  EXPECT_TRUE(at::equal(all.arena->parameter(down), one.arena->parameter(down)));
  EXPECT_EQ(one.arena->parameter(one.lora.modules()[0].up_name()).abs().max().item<float>(), 0);
  const at::Tensor first = one.arena->parameter(down).detach().clone();
  EXPECT_LE(first.abs().max().item<double>(), 1 / std::sqrt(6.0));
  one.lora.initialize(*one.arena, 6);
  EXPECT_FALSE(at::equal(one.arena->parameter(down), first));
  EXPECT_FALSE(at::equal(all.arena->parameter(all.lora.modules()[3].down_name()).flatten().narrow(0, 0, 6),
                         all.arena->parameter(all.lora.modules()[4].down_name()).flatten().narrow(0, 0, 6)));
}

TEST(Lora, LayersWithoutAHookAreRefused) {
  const SmallLora small({{small_sites()[0], 2, 2.0}});
  EXPECT_THROW(small.lora.hooks(*small.arena, {}), Error);
  EXPECT_THROW(expect_hooks(small.lora, "locon.safetensors"), InputError);
}

/// Adds `change` to everything, so that order and separation show.
struct AddingHooks final : model::ModelHooks {
  explicit AddingHooks(double added, double factor) : change(added), times(factor) {}
  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite&) override {
    ++calls;
    return {context * times + change, context * times - change};
  }
  at::Tensor linear(const at::Tensor& input, const at::Tensor& output, const std::string&) override {
    return output * times + input * change;
  }
  at::Tensor token_embedding(const at::Tensor&, const at::Tensor& embedded) override {
    return embedded * times + change;
  }
  void begin_forward() override { ++begun; }
  void begin_text_encoder(std::int64_t index) override { encoder = index; }
  double change, times;
  int calls = 0, begun = 0;
  std::int64_t encoder = -1;
};

TEST(ChainedHooks, EachGetsWhatTheOneBeforeGave) {
  std::vector<std::unique_ptr<model::ModelHooks>> links;
  links.push_back(std::make_unique<AddingHooks>(1, 2));
  links.push_back(nullptr);
  links.push_back(std::make_unique<AddingHooks>(10, 3));
  auto* first = static_cast<AddingHooks*>(links[0].get());
  auto* last = static_cast<AddingHooks*>(links[2].get());
  const auto chain = chain_hooks(std::move(links));
  const at::Tensor x = at::full({1, 1, 1}, 5.0f), y = at::full({1, 1, 1}, 7.0f);
  EXPECT_EQ(chain->linear(x, y, "layer").item<float>(), (7 * 2 + 5 * 1) * 3 + 5 * 10);
  EXPECT_EQ(chain->token_embedding(x, y).item<float>(), (7 * 2 + 1) * 3 + 10);
  const auto read = chain->attention_context(x, {});
  EXPECT_EQ(read.key.item<float>(), (5 * 2 + 1) * 3 + 10);
  EXPECT_EQ(read.value.item<float>(), (5 * 2 - 1) * 3 - 10);
  EXPECT_EQ(first->calls, 1) << "key and value are one tensor at first";
  EXPECT_EQ(last->calls, 2);
  chain->begin_forward();
  chain->begin_text_encoder(1);
  EXPECT_EQ(first->begun + last->begun, 2);
  EXPECT_EQ(first->encoder + last->encoder, 2);
}

TEST(ChainedHooks, NoneAndOneNeedNoChain) {
  EXPECT_EQ(chain_hooks({}), nullptr);
  std::vector<std::unique_ptr<model::ModelHooks>> links;
  links.push_back(std::make_unique<AddingHooks>(1, 2));
  const model::ModelHooks* only = links[0].get();
  EXPECT_EQ(chain_hooks(std::move(links)).get(), only);
}

}  // namespace
}  // namespace ldmtune::adapt
