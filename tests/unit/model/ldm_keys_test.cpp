#include "model/ldm_keys.h"

#include <gtest/gtest.h>

#include "expect_error.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_encoder.h"
#include "model/unet_2d_condition.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

void expect_equal(const store::TensorMap& found, const store::TensorMap& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [key, tensor] : expected) {
    ASSERT_TRUE(found.contains(key)) << key;
    EXPECT_TRUE(at::equal(found.at(key), tensor)) << key;
  }
}

TEST(LdmKeys, RenameTheUNetBothWays) {
  Weights weights = random_weights();
  const UNet2DConditionModel unet(small_unet_config(), weights);
  const store::TensorMap ldm = unet_to_ldm(unet.parameters(), "unet");
  for (const char* key :
       {"time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.1.proj_in.weight", "input_blocks.2.0.op.weight", "middle_block.2.out_layers.3.bias",
        "output_blocks.0.0.skip_connection.weight", "output_blocks.1.2.conv.weight", "out.2.weight"}) {
    EXPECT_TRUE(ldm.contains(key)) << key;
  }
  expect_equal(unet_from_ldm(ldm, "file"), unet.parameters());
}

TEST(LdmKeys, CountTheVaeDecodersLevelsFromTheFinest) {
  Weights weights = random_weights();
  const AutoencoderKL vae(small_vae_config(), weights);
  const store::TensorMap ldm = vae_to_ldm(vae.parameters(), "vae");
  EXPECT_TRUE(at::equal(ldm.at("decoder.up.1.block.0.norm1.weight"),
                        vae.parameters().at("decoder.up_blocks.0.resnets.0.norm1.weight")));
  EXPECT_EQ(ldm.at("encoder.mid.attn_1.q.weight").dim(), 4);
  EXPECT_TRUE(ldm.contains("decoder.mid.block_2.conv2.weight") && ldm.contains("encoder.norm_out.bias"));
  expect_equal(vae_from_ldm(ldm, "file"), vae.parameters());
}

TEST(LdmKeys, JoinOpenClipsProjections) {
  nlohmann::json config = small_text_config();
  config["architectures"] = {"CLIPTextModelWithProjection"};
  config["projection_dim"] = 6;
  Weights weights = random_weights();
  const CLIPTextEncoder encoder(config, weights);
  store::TensorMap ldm = text_to_open_clip(encoder.parameters(), "text");
  EXPECT_EQ(ldm.at("transformer.resblocks.1.attn.in_proj_weight").sizes(), (at::IntArrayRef{36, 12}));
  EXPECT_EQ(ldm.at("text_projection").sizes(), (at::IntArrayRef{12, 6}));
  ldm["logit_scale"] = at::ones({});
  expect_equal(text_from_open_clip(ldm, "file"), encoder.parameters());
}

TEST(LdmKeys, RefuseKeysWithoutAPlace) {
  const store::TensorMap odd{{"input_blocks.1.0.in_layers.7.weight", at::zeros({1})}};
  expect_input_error([&] { unet_from_ldm(odd, "x.ckpt"); }, {"x.ckpt", "input_blocks.1.0.in_layers.7.weight"});
  expect_input_error([&] { vae_from_ldm(odd, "x.ckpt"); }, {"x.ckpt", "in_layers.7"});
  expect_input_error([&] { text_from_open_clip(odd, "x.ckpt"); }, {"x.ckpt", "in_layers.7"});
  expect_input_error([&] { unet_to_ldm({{"down_blocks.0.motion.weight", at::zeros({1})}}, "x"); }, {"motion"});
  const store::TensorMap uneven{{"down_blocks.0.resnets.0.norm1.weight", at::zeros({1})},
                                {"down_blocks.1.resnets.1.norm1.weight", at::zeros({1})}};
  expect_input_error([&] { unet_to_ldm(uneven, "x"); }, {"1 and 2 resnets"});
}

}  // namespace
}  // namespace ldmtune::model
