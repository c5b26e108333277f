#include "adapt/lora_file.h"

#include <gtest/gtest.h>

#include "adapt/lora_keys.h"
#include "adapt/merge.h"
#include "core/error.h"
#include "small_lora.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {
namespace {

namespace fs = std::filesystem;

void expect_same(const LoraFile& read, const SmallLora& small) {
  ASSERT_EQ(read.lora->modules().size(), small.lora.modules().size());
  for (std::size_t i = 0; i < small.lora.modules().size(); ++i) {
    const LoraModule &found = read.lora->modules()[i], &written = small.lora.modules()[i];
    EXPECT_EQ(found.site.full_name(), written.site.full_name());
    EXPECT_EQ(found.rank, written.rank);
    EXPECT_EQ(found.alpha, written.alpha) << found.site.full_name();
  }
  for (const auto& [name, view] : small.arena->parameter_views())
    EXPECT_TRUE(at::equal(view, read.arena->parameter(name))) << name;
}

TEST(LoraFile, BothLayoutsReadBackBitForBit) {
  const ScratchFolder scratch;
  const SmallLora small;
  const auto sites = small_sites();
  for (const LoraLayout layout : {LoraLayout::diffusers, LoraLayout::kohya}) {
    const fs::path file = scratch.path / "lora.safetensors";
    write_lora(small.lora, *small.arena, file, layout, {"style", 42, "abc", "the base"});
    const LoraFile read = read_lora(file, sites);
    expect_same(read, small);
    EXPECT_EQ(read.layout, layout);
    EXPECT_EQ(read.name, "style");
    EXPECT_EQ(read.step, 42);
    EXPECT_EQ(read.base_sha256, "abc");
    EXPECT_EQ(read.base_name, "the base");
    write_lora(*read.lora, *read.arena, scratch.path / "again.safetensors", layout, {"style", 42, "abc", "the base"});
    EXPECT_EQ(store::read_safetensors(file).metadata,
              store::read_safetensors(scratch.path / "again.safetensors").metadata);
  }
}

TEST(LoraFile, ParametersOfACheckpointAreAFile) {
  SmallLora small({{small_sites()[2], 2, 0.5}, {small_sites()[3], 2, 0.5}});
  const LoraFile read = lora_of_parameters(small.arena->parameter_views(), 0.5, "parameters.safetensors");
  expect_same(read, small);
  EXPECT_EQ(lora_of_parameters(small.arena->parameter_views(), 0, "p").lora->modules()[0].alpha, 2.0);
  EXPECT_THROW(lora_of_parameters({{"768.k.linear.0.weight", at::ones({2, 2})}}, 1, "p"), InputError);
  EXPECT_THROW(lora_of_parameters({{"unet.x.lora_A.weight", at::ones({2, 2})}}, 1, "p"), InputError);
}

TEST(LoraFile, FactorsOfAConvolutionMayBeMatrices) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "lora.safetensors";
  const at::Tensor down = normals({2, 6}, 1), up = normals({8, 2}, 2);
  const std::string name = "unet." + kPointwise;
  store::write_safetensors(file, {{name + ".lora_A.weight", down}, {name + ".lora_B.weight", up.to(at::kHalf)}});
  const LoraFile read = read_lora(file, small_sites());
  EXPECT_EQ(read.lora->modules()[0].alpha, 2.0) << "without a word on alpha it is the rank";
  EXPECT_TRUE(at::equal(read.arena->parameter(name + ".lora_A.weight"), down.view({2, 6, 1, 1})));
  EXPECT_TRUE(
      at::equal(read.arena->parameter(name + ".lora_B.weight"), up.to(at::kHalf).to(at::kFloat).view({8, 2, 1, 1})));
}

TEST(LoraFile, RankStabilizedScaleIsByTheRoot) {
  const ScratchFolder scratch;
  const fs::path file = scratch.path / "lora.safetensors";
  store::write_safetensors(file,
                           {{"unet." + kMatrix + ".lora_A.weight", normals({4, 12}, 1)},
                            {"unet." + kMatrix + ".lora_B.weight", normals({8, 4}, 2)}},
                           {{"lora_adapter_metadata", R"({"unet.lora_alpha": 3, "unet.use_rslora": true})"}});
  EXPECT_DOUBLE_EQ(read_lora(file, small_sites()).lora->modules()[0].scale(), 3.0 / 2.0);
}

TEST(LoraKeys, EverySpellingFindsItsLayer) {
  const auto sites = small_sites();
  const LoraKeyResolver resolver(sites);
  const std::string attention = "unet." + kMatrix;
  const std::string feed_forward = "unet.up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj";
  for (const auto& [layer, means] : std::vector<std::pair<std::string, std::string>>{
           {attention, attention},
           {"base_model.model." + kMatrix, attention},
           {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k", attention},
           {"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", attention},
           // Level 1 of two residual blocks a level: 1 + 1 * 3 + 0.
           {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", attention},
           {"lora_unet_middle_block_1_proj_in", "unet." + kPointwise},
           {"lora_unet_output_blocks_2_1_transformer_blocks_0_ff_net_0_proj", feed_forward},
           {"text_encoder.encoder.layers.0.self_attn.q_proj", "text_encoder." + kText},
           {"text_encoder.text_model.encoder.layers.0.self_attn.to_q", "text_encoder." + kText},
           {"lora_te_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder." + kText},
           {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder." + kText},
           {"lora_te2_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder_2." + kText}}) {
    const LoraSite* found = resolver.find(layer);
    ASSERT_NE(found, nullptr) << layer;
    EXPECT_EQ(found->full_name(), means) << layer;
  }
  for (const std::string unknown : {"lora_unet_mid_block", "unet.conv_in", "text_encoder.q_proj", ""})
    EXPECT_EQ(resolver.find(unknown), nullptr) << unknown;
}

TEST(LoraKeys, OnlyLoraTensorsSplit) {
  EXPECT_EQ(split_lora_key("unet.x.lora_B.weight")->part, LoraPart::up);
  EXPECT_EQ(split_lora_key("lora_unet_x.alpha")->layer, "lora_unet_x");
  EXPECT_EQ(split_lora_key("unet.attn1.processor.to_q_lora.down.weight")->layer, "unet.attn1.processor.to_q");
  for (const char* other : {"unet.conv_in.weight", "lora_unet_x.hada_w1_a", "emb_params", ""})
    EXPECT_FALSE(split_lora_key(other)) << other;
}

TEST(WeightedFiles, AStrengthIsWhatFollowsTheLastColon) {
  EXPECT_EQ(parse_weighted_file("a.safetensors", "lora").strength, 1.0);
  EXPECT_EQ(parse_weighted_file("a.safetensors:0.25", "lora").strength, 0.25);
  EXPECT_EQ(parse_weighted_file("a.safetensors:-1", "lora").strength, -1.0);
  const WeightedFile named = parse_weighted_file("C:odd name.safetensors", "lora");
  EXPECT_EQ(named.file, "C:odd name.safetensors");
  EXPECT_EQ(named.strength, 1.0);
  EXPECT_THROW(parse_weighted_file("a:inf", "lora"), InputError);
  const auto files = parse_weighted_files(" a:0.5 , b,, c:2", "lora");
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].file, "a");
  EXPECT_EQ(files[2].strength, 2.0);
  EXPECT_TRUE(parse_weighted_files(" ", "lora").empty());
}

}  // namespace
}  // namespace ldmtune::adapt
