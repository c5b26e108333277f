#include "model/unet_config.h"

#include <gtest/gtest.h>

#include "expect_error.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

using nlohmann::json;

// The keys of SD 1.5's published config.json, which leaves the newer ones out.
const json kStableDiffusion15{
    {"_class_name", "UNet2DConditionModel"},
    {"_diffusers_version", "0.6.0"},
    {"act_fn", "silu"},
    {"attention_head_dim", 8},
    {"block_out_channels", {320, 640, 1280, 1280}},
    {"center_input_sample", false},
    {"cross_attention_dim", 768},
    {"down_block_types", {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}},
    {"downsample_padding", 1},
    {"flip_sin_to_cos", true},
    {"freq_shift", 0},
    {"in_channels", 4},
    {"layers_per_block", 2},
    {"mid_block_scale_factor", 1},
    {"norm_eps", 1e-05},
    {"norm_num_groups", 32},
    {"out_channels", 4},
    {"sample_size", 64},
    {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}}};

TEST(UNetConfig, ReadsStableDiffusion15) {
  const UNetConfig config = read_unet_config(kStableDiffusion15, "UNet");
  ASSERT_EQ(config.levels.size(), 4u);
  EXPECT_EQ(config.levels[0].channels, 320);
  EXPECT_EQ(config.levels[3].channels, 1280);
  for (const auto& level : config.levels) {
    EXPECT_EQ(level.heads, 8);
    EXPECT_EQ(level.layers, 2);
    EXPECT_EQ(level.transformer_layers, 1);
  }
  EXPECT_TRUE(config.levels[0].down_attention && config.levels[0].up_attention);
  EXPECT_FALSE(config.levels[3].down_attention || config.levels[3].up_attention);
  EXPECT_EQ(config.cross_attention_dim, 768);
  EXPECT_EQ(config.time_embedding_dim, 1280);
  EXPECT_FALSE(config.use_linear_projection);
}

TEST(UNetConfig, ReadsStableDiffusion21) {
  json json21 = kStableDiffusion15;
  json21.update({{"attention_head_dim", {5, 10, 20, 20}},
                 {"cross_attention_dim", 1024},
                 {"sample_size", 96},
                 {"dual_cross_attention", false},
                 {"only_cross_attention", false},
                 {"use_linear_projection", true},
                 {"upcast_attention", true},
                 {"num_class_embeds", nullptr},
                 {"resnet_time_scale_shift", "default"}});
  const UNetConfig config = read_unet_config(json21, "UNet");
  EXPECT_EQ(config.levels[0].heads, 5);
  EXPECT_EQ(config.levels[3].heads, 20);
  EXPECT_EQ(config.cross_attention_dim, 1024);
  EXPECT_EQ(config.sample_size, 96);
  EXPECT_TRUE(config.use_linear_projection && config.upcast_attention);
}

TEST(UNetConfig, ReadsStableDiffusionXL) {
  json xl = kStableDiffusion15;
  xl.update({{"addition_embed_type", "text_time"},
             {"addition_embed_type_num_heads", 64},
             {"addition_time_embed_dim", 256},
             {"attention_head_dim", {5, 10, 20}},
             {"block_out_channels", {320, 640, 1280}},
             {"cross_attention_dim", 2048},
             {"down_block_types", {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"}},
             {"projection_class_embeddings_input_dim", 2816},
             {"sample_size", 128},
             {"transformer_layers_per_block", {1, 2, 10}},
             {"up_block_types", {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}},
             {"use_linear_projection", true}});
  const UNetConfig config = read_unet_config(xl, "UNet");
  EXPECT_EQ(config.pooled_width, 1280);
  EXPECT_EQ(config.addition_time_embed_dim, 256);
  EXPECT_EQ(config.levels[2].transformer_layers, 10);
  EXPECT_EQ(config.levels[2].heads, 20);
  EXPECT_FALSE(config.levels[0].down_attention || config.levels[0].up_attention);
  xl["projection_class_embeddings_input_dim"] = 1536;
  expect_input_error([&] { read_unet_config(xl, "UNet"); }, {"projection_class_embeddings_input_dim = 1536", "1536"});
  xl["addition_time_embed_dim"] = nullptr;
  expect_input_error([&] { read_unet_config(xl, "UNet"); }, {"addition_time_embed_dim", "text_time"});
}

TEST(UNetConfig, TakesAnEmptyFileAsTheDefaultsOfDiffusers) {
  const UNetConfig config = read_unet_config(json::object(), "UNet");
  ASSERT_EQ(config.levels.size(), 4u);
  EXPECT_EQ(config.levels[2].channels, 1280);
  EXPECT_EQ(config.levels[2].heads, 8);
  EXPECT_EQ(config.cross_attention_dim, 1280);
  EXPECT_EQ(config.norm_num_groups, 32);
  EXPECT_EQ(config.sample_size, 64);
}

TEST(UNetConfig, PrefersTheNumberOfHeadsUnderItsRightName) {
  json named = small_unet_config();
  named["num_attention_heads"] = {4, 8};
  const UNetConfig config = read_unet_config(named, "UNet");
  EXPECT_EQ(config.levels[0].heads, 4);
  EXPECT_EQ(config.levels[1].heads, 8);
}

struct Refused {
  std::string key;
  json value;
};

class UNetConfigRefuses : public testing::TestWithParam<Refused> {};

TEST_P(UNetConfigRefuses, NamingKeyAndValue) {
  json config = small_unet_config();
  config[GetParam().key] = GetParam().value;
  expect_input_error([&] { read_unet_config(config, "UNet of base/unet"); },
                     {"UNet of base/unet", GetParam().key + " = " + GetParam().value.dump()});
}

INSTANTIATE_TEST_SUITE_P(
    What, UNetConfigRefuses,
    testing::Values(Refused{"addition_embed_type", "text_image"}, Refused{"addition_time_embed_dim", 256},
                    Refused{"projection_class_embeddings_input_dim", 2816}, Refused{"class_embed_type", "timestep"},
                    Refused{"num_class_embeds", 1000}, Refused{"encoder_hid_dim", 768},
                    Refused{"encoder_hid_dim_type", "text_proj"}, Refused{"time_embedding_type", "fourier"},
                    Refused{"time_embedding_act_fn", "silu"}, Refused{"timestep_post_act", "silu"},
                    Refused{"time_cond_proj_dim", 256}, Refused{"resnet_time_scale_shift", "scale_shift"},
                    Refused{"resnet_skip_time_act", true}, Refused{"resnet_out_scale_factor", 2.0},
                    Refused{"dropout", 0.1}, Refused{"dual_cross_attention", true},
                    Refused{"cross_attention_norm", "layer_norm"}, Refused{"attention_type", "gated"},
                    Refused{"class_embeddings_concat", true}, Refused{"mid_block_type", "UNetMidBlock2D"},
                    Refused{"reverse_transformer_layers_per_block", {1, 1}},
                    Refused{"transformer_layers_per_block", {{1}, {2}}}, Refused{"a_key_of_tomorrow", 3},
                    Refused{"down_block_types", {"CrossAttnDownBlock2D", "AttnDownBlock2D"}},
                    Refused{"up_block_types", {"CrossAttnUpBlock2D"}}, Refused{"block_out_channels", {8, 16, 32}},
                    Refused{"cross_attention_dim", {12, 13}}, Refused{"sample_size", {8, 16}},
                    Refused{"downsample_padding", 2}, Refused{"act_fn", "softplus"}, Refused{"conv_in_kernel", 4},
                    Refused{"attention_head_dim", 9}, Refused{"mid_block_scale_factor", 0},
                    Refused{"norm_num_groups", -1}, Refused{"layers_per_block", "2"}),
    [](const auto& tested) { return tested.param.key; });

}  // namespace
}  // namespace ldmtune::model
