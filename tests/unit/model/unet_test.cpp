#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "expect_error.h"
#include "model/unet_2d_condition.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

struct Inputs {
  at::Tensor sample = random_normal({2, 4, 8, 8}, 1);
  at::Tensor timestep = at::tensor({3, 700}, at::kLong);
  at::Tensor text = random_normal({2, 5, 12}, 2);
};

UNet2DConditionModel small_unet(const nlohmann::json& changes = {}, at::ScalarType dtype = at::kFloat) {
  nlohmann::json config = small_unet_config();
  if (!changes.is_null()) config.update(changes);
  Weights weights = random_weights(dtype);
  return UNet2DConditionModel(config, weights);
}

TEST(UNet2DConditionModel, PredictsOneValueALatentValue) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  EXPECT_EQ(unet.forward(in.sample, in.timestep, in.text).sizes(), in.sample.sizes());
  EXPECT_EQ(unet.in_channels(), 4);
  EXPECT_EQ(unet.cross_attention_dim(), 12);
  EXPECT_EQ(unet.sample_size(), 8);
}

TEST(UNet2DConditionModel, ListsItsAttentionLayersInOrderOfEvaluation) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  RecordingHooks hooks;
  unet.forward(in.sample, in.timestep, in.text, &hooks);
  EXPECT_EQ(hooks.forwards, 1);
  const auto& layers = unet.attention_layers();
  ASSERT_EQ(layers.size(), 14u);  // (2 down + 1 middle + 4 up) transformers of two attentions
  ASSERT_EQ(hooks.sites.size(), layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    EXPECT_EQ(layers[i].site.layer_index, static_cast<std::int64_t>(i));
    EXPECT_EQ(hooks.sites[i].layer_index, layers[i].site.layer_index);
    EXPECT_EQ(hooks.sites[i].name, layers[i].site.name);
    EXPECT_EQ(hooks.sites[i].is_cross, layers[i].site.is_cross);
    EXPECT_EQ(hooks.contexts[i].size(2), layers[i].context_width);
  }
  EXPECT_EQ(layers[0].site.name, "down_blocks.0.attentions.0.transformer_blocks.0.attn1");
  EXPECT_FALSE(layers[0].site.is_cross);
  EXPECT_EQ(layers[1].site.name, "down_blocks.0.attentions.0.transformer_blocks.0.attn2");
  EXPECT_TRUE(layers[1].site.is_cross);
  EXPECT_EQ(layers[4].site.name, "mid_block.attentions.0.transformer_blocks.0.attn1");
  EXPECT_EQ(layers[13].site.name, "up_blocks.1.attentions.1.transformer_blocks.0.attn2");
  EXPECT_EQ(unet.context_widths(), (std::set<std::int64_t>{8, 12, 16}));
}

TEST(UNet2DConditionModel, GivesEveryCrossAttentionTheSameTensor) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const UNet2DConditionModel unet = small_unet({}, dtype);
    const Inputs in;
    RecordingHooks hooks;
    unet.forward(in.sample, in.timestep, in.text, &hooks);
    for (std::size_t i = 3; i < hooks.sites.size(); i += 2) {
      EXPECT_TRUE(hooks.contexts[i].is_same(hooks.contexts[1])) << hooks.sites[i].name;
      EXPECT_FALSE(hooks.contexts[i - 1].is_same(hooks.contexts[1]));
    }
    EXPECT_EQ(hooks.contexts[1].is_same(in.text), dtype == at::kFloat);
  }
}

TEST(UNet2DConditionModel, OffersEveryTransformerProjectionToTheHook) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  RecordingHooks hooks;
  unet.forward(in.sample, in.timestep, in.text, &hooks);
  EXPECT_EQ(hooks.linear_names.size(), hooks.linear_widths.size()) << "a projection was offered twice";
  EXPECT_EQ(hooks.linear_names.size(), 7u * 12u);
  const std::string transformer = "mid_block.attentions.0", block = transformer + ".transformer_blocks.0";
  const std::map<std::string, std::pair<std::int64_t, std::int64_t>> expected{
      {transformer + ".proj_in", {16, 16}},  {transformer + ".proj_out", {16, 16}},
      {block + ".attn1.to_q", {16, 16}},     {block + ".attn1.to_k", {16, 16}},
      {block + ".attn1.to_v", {16, 16}},     {block + ".attn1.to_out.0", {16, 16}},
      {block + ".attn2.to_q", {16, 16}},     {block + ".attn2.to_k", {12, 16}},
      {block + ".attn2.to_v", {12, 16}},     {block + ".attn2.to_out.0", {16, 16}},
      {block + ".ff.net.0.proj", {16, 128}}, {block + ".ff.net.2", {64, 16}}};
  for (const auto& [name, widths] : expected) EXPECT_EQ(hooks.linear_widths[name], widths) << name;
  for (const std::string& name : hooks.linear_names) EXPECT_EQ(unet.parameters().count(name + ".weight"), 1u) << name;
}

TEST(UNet2DConditionModel, IsBitwiseTheSameWithHooksThatChangeNothing) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  ModelHooks hooks;
  const at::Tensor plain = unet.forward(in.sample, in.timestep, in.text);
  EXPECT_TRUE(at::equal(plain, unet.forward(in.sample, in.timestep, in.text, &hooks)));
  EXPECT_TRUE(at::equal(plain, unet.forward(in.sample, in.timestep, in.text)));
}

TEST(UNet2DConditionModel, OnlyCrossAttentionReadsTheTextInBothAttentionsOfItsLevel) {
  const UNet2DConditionModel unet = small_unet({{"only_cross_attention", {true, false}}});
  EXPECT_EQ(unet.context_widths(), (std::set<std::int64_t>{12, 16}));
  const auto& layers = unet.attention_layers();
  EXPECT_TRUE(layers[0].site.is_cross);   // down_blocks.0, attn1
  EXPECT_FALSE(layers[4].site.is_cross);  // mid_block, attn1
  EXPECT_TRUE(layers[10].site.is_cross);  // up_blocks.1, attn1
}

TEST(UNet2DConditionModel, TakesSizesThatDoNotHalveEvenly) {
  const UNet2DConditionModel unet = small_unet();
  const at::Tensor odd = random_normal({2, 4, 7, 5}, 3);
  const Inputs in;
  EXPECT_EQ(unet.forward(odd, in.timestep, in.text).sizes(), odd.sizes());
}

TEST(UNet2DConditionModel, BroadcastsOneTimestep) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  const at::Tensor one = unet.forward(in.sample, at::tensor({700.0}, at::kDouble), in.text);
  const at::Tensor both = unet.forward(in.sample, at::tensor({700, 700}, at::kInt), in.text);
  EXPECT_TRUE(at::allclose(one, both, 1e-4, 1e-5));
}

TEST(UNet2DConditionModel, ComputesInItsOwnType) {
  const Inputs in;
  const at::Tensor expected = small_unet().forward(in.sample, in.timestep, in.text);
  const at::Tensor output = small_unet({}, at::kBFloat16).forward(in.sample, in.timestep, in.text);
  EXPECT_EQ(output.scalar_type(), at::kBFloat16);
  EXPECT_LT(((output - expected).abs().max() / expected.abs().max()).item<double>(), 0.1);
}

TEST(UNet2DConditionModel, HasTheGradientsOfFiniteDifferences) {
  const UNet2DConditionModel unet = small_unet({}, at::kDouble);
  Inputs in;
  in.sample = in.sample.to(at::kDouble).set_requires_grad(true);
  in.text = in.text.to(at::kDouble).set_requires_grad(true);
  const at::Tensor kernel = unet.parameters().at("mid_block.attentions.0.proj_in.weight");
  kernel.set_requires_grad(true);
  const auto loss = [&] { return unet.forward(in.sample, in.timestep, in.text).sin().sum(); };
  loss().backward();
  const at::NoGradGuard no_grad;
  for (const at::Tensor& leaf : {in.sample, in.text, kernel}) {
    const at::Tensor direction = random_normal(leaf.sizes(), 9).to(at::kDouble);
    constexpr double kStep = 1e-5;
    leaf.add_(direction, kStep);
    const double above = loss().item<double>();
    leaf.add_(direction, -2 * kStep);
    const double below = loss().item<double>();
    leaf.add_(direction, kStep);
    const double slope = (leaf.grad() * direction).sum().item<double>();
    EXPECT_NEAR((above - below) / (2 * kStep), slope, 1e-4 * std::abs(slope));
  }
}

TEST(UNet2DConditionModel, RefusesInputsOfTheWrongShape) {
  const UNet2DConditionModel unet = small_unet();
  const Inputs in;
  EXPECT_THROW(unet.forward(random_normal({2, 5, 8, 8}, 1), in.timestep, in.text), Error);
  EXPECT_THROW(unet.forward(in.sample, at::zeros({3}), in.text), Error);
  EXPECT_THROW(unet.forward(in.sample, in.timestep, random_normal({2, 5, 13}, 1)), Error);
  EXPECT_THROW(unet.forward(in.sample, in.timestep, random_normal({1, 5, 12}, 1)), Error);
}

}  // namespace
}  // namespace ldmtune::model
