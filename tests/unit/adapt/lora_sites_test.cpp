#include <gtest/gtest.h>

#include <cmath>

#include "adapt/lora.h"
#include "core/error.h"

namespace ldmtune::adapt {
namespace {

const std::filesystem::path kBase = std::filesystem::path(LDMTUNE_SOURCE_DIR) / "datasets/emoji-base";

TEST(LoraSites, HeadersTellWhatTheLoadedBaseHas) {
  model::BaseModelOptions options;
  options.vae = false;
  const auto loaded = lora_sites(model::load_base_model(kBase, options)), headers = lora_sites(kBase);
  ASSERT_EQ(loaded.size(), headers.size());
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    EXPECT_EQ(loaded[i].full_name(), headers[i].full_name());
    EXPECT_EQ(loaded[i].weight_shape, headers[i].weight_shape) << loaded[i].full_name();
  }
  EXPECT_TRUE(lora_sites(std::filesystem::path("no-such-base")).empty());
}

TEST(LoraSites, HooksAreWhereTransformersMultiply) {
  EXPECT_TRUE((LoraSite{"unet", "mid_block.attentions.0.proj_in", {8, 8, 1, 1}}.has_hook()));
  EXPECT_TRUE((LoraSite{"text_encoder_2", "text_model.encoder.layers.3.mlp.fc2", {8, 32}}.has_hook()));
  EXPECT_FALSE((LoraSite{"unet", "mid_block.resnets.0.conv_shortcut", {8, 8, 1, 1}}.has_hook()));
  EXPECT_FALSE((LoraSite{"unet", "mid_block.attentions.0.odd", {8, 8, 3, 3}}.has_hook()));
  EXPECT_FALSE((LoraSite{"text_encoder", "text_model.embeddings.token_embedding", {99, 8}}.has_hook()));
}

TEST(LoraSites, TargetsAreEndingsOfNames) {
  const auto sites = lora_sites(kBase);
  const auto count = [&](const std::string& unet, const std::string& text) {
    LoraConfig config;
    config.rank = 2;
    config.target_modules = unet;
    config.text_encoder_target_modules = text;
    return Lora::from_config(config, sites).modules().size();
  };
  const std::size_t queries = count("to_q", "");
  EXPECT_EQ(count("attn1.to_q", "") + count("attn2.to_q", ""), queries);
  EXPECT_EQ(count(" to_q ,to_k", ""), 2 * queries);
  EXPECT_EQ(count("to_q, attn2.to_q", ""), queries) << "a layer named twice is one";
  EXPECT_EQ(count("mid_block.attentions.0.proj_in", ""), 1u);
  EXPECT_EQ(count("", "q_proj"), 4u);
  EXPECT_EQ(count("all", "all"), count("all", "") + count("", "all"));
  for (const char* wrong : {"q", "o_q", "conv1", "token_embedding", "attentions"})
    EXPECT_THROW(count(wrong, ""), InputError) << wrong;
}

TEST(LoraSites, AlphaIsTheRankUnlessGiven) {
  const auto sites = lora_sites(kBase);
  LoraConfig config;
  config.rank = 6;
  EXPECT_EQ(Lora::from_config(config, sites).modules()[0].scale(), 1.0);
  config.alpha = 0.1;
  EXPECT_EQ(Lora::from_config(config, sites).modules()[0].alpha, static_cast<double>(0.1f));
  for (const double wrong : {-1.0, HUGE_VAL, std::nan("")}) {
    config.alpha = wrong;
    EXPECT_THROW(Lora::from_config(config, sites), InputError) << wrong;
  }
}

}  // namespace
}  // namespace ldmtune::adapt
