#include "model/checkpoint_keys.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "model/base_folder.h"
#include "model/base_model.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;

const fs::path kStableDiffusion15 = fs::path(LDMTUNE_SOURCE_DIR) / "tests/fixtures/sd15";

/// Tensors of the published file by key and shape, on the meta device: they take no memory.
store::TensorMap published_tensors(const std::string& component) {
  std::ifstream file(kStableDiffusion15 / component / "keys.txt");
  store::TensorMap tensors;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    std::vector<std::int64_t> shape;
    for (std::int64_t size = 0; words >> size;) shape.push_back(size);
    const auto dtype = key.ends_with("position_ids") ? at::kLong : at::kFloat;
    tensors.emplace(key, at::empty(shape, at::device(at::kMeta).dtype(dtype)));
  }
  return tensors;
}

nlohmann::json published_config(const std::string& component) {
  return read_component_json(kStableDiffusion15 / component / "config.json");
}

Weights weights_of(store::TensorMap tensors, const std::string& component) {
  return Weights(std::move(tensors), component, at::kFloat, at::kMeta);
}

std::int64_t parameter_count(const store::TensorMap& parameters) {
  std::int64_t count = 0;
  for (const auto& entry : parameters) count += entry.second.numel();
  return count;
}

std::vector<std::string> keys_of(const store::TensorMap& tensors) {
  std::vector<std::string> keys;
  for (const auto& entry : tensors) keys.push_back(entry.first);
  return keys;
}

TEST(StableDiffusion15, ModelIndexIsTaken) {
  EXPECT_NO_THROW(check_model_index(kStableDiffusion15, BaseModelOptions{}));
}

TEST(StableDiffusion15, UNetTakesThePublishedKeys) {
  const store::TensorMap tensors = published_tensors("unet");
  ASSERT_EQ(tensors.size(), 686u);
  Weights weights = weights_of(tensors, "unet");
  const UNet2DConditionModel unet(published_config("unet"), weights);
  weights.expect_all_taken();
  EXPECT_EQ(keys_of(unet.parameters()), keys_of(tensors));
  EXPECT_EQ(parameter_count(unet.parameters()), 859'520'964);
  EXPECT_EQ(unet.context_widths(), (std::set<std::int64_t>{320, 640, 768, 1280}));
  EXPECT_EQ(unet.attention_layers().size(), 32u);
  EXPECT_EQ(unet.sample_size(), 64);
}

TEST(StableDiffusion15, VaeTakesThePublishedKeys) {
  const store::TensorMap tensors = published_tensors("vae");
  ASSERT_EQ(tensors.size(), 248u);
  ASSERT_EQ(tensors.count("encoder.mid_block.attentions.0.proj_attn.weight"), 1u);
  Weights weights = weights_of(normalize_vae_keys(tensors, "vae"), "vae");
  const AutoencoderKL vae(published_config("vae"), weights);
  weights.expect_all_taken();
  EXPECT_EQ(parameter_count(vae.parameters()), 83'653'863);
  EXPECT_DOUBLE_EQ(vae.scaling_factor(), 0.18215);
  EXPECT_EQ(vae.downscale_factor(), 8);
}

TEST(StableDiffusion15, VaeAttentionMayBePointwiseConvolutions) {
  store::TensorMap tensors = published_tensors("vae");
  for (auto& [key, tensor] : tensors) {
    const bool is_projection = key.find(".attentions.") != std::string::npos && tensor.dim() == 2;
    if (is_projection) tensor = tensor.unsqueeze(2).unsqueeze(3);
  }
  ASSERT_EQ(tensors.at("decoder.mid_block.attentions.0.query.weight").dim(), 4);
  Weights weights = weights_of(normalize_vae_keys(tensors, "vae"), "vae");
  const AutoencoderKL vae(published_config("vae"), weights);
  weights.expect_all_taken();
  EXPECT_EQ(vae.parameters().at("decoder.mid_block.attentions.0.to_out.0.weight").dim(), 2);
  EXPECT_EQ(vae.parameters().at("quant_conv.weight").dim(), 4);
}

TEST(StableDiffusion15, TextEncoderTakesThePublishedKeys) {
  const store::TensorMap tensors = published_tensors("text_encoder");
  ASSERT_EQ(tensors.size(), 197u);
  Weights weights = weights_of(normalize_text_encoder_keys(tensors, "text_encoder"), "text_encoder");
  const CLIPTextEncoder encoder(published_config("text_encoder"), weights);
  weights.expect_all_taken();
  EXPECT_EQ(parameter_count(encoder.parameters()), 123'060'480);
  EXPECT_EQ(encoder.max_position_embeddings(), 77);
}

TEST(CheckpointKeys, TextEncoderKeysOfTransformers5GetThePrefix) {
  store::TensorMap tensors;
  for (const auto& [key, tensor] : published_tensors("text_encoder")) {
    tensors.emplace(key.substr(std::string("text_model.").size()), tensor);
  }
  const auto normalized = normalize_text_encoder_keys(tensors, "text_encoder");
  EXPECT_EQ(normalized.size(), 196u);
  for (const auto& entry : normalized) EXPECT_TRUE(entry.first.starts_with("text_model.")) << entry.first;
}

TEST(CheckpointKeys, UnknownKeysStay) {
  const store::TensorMap odd{{"something.weight", at::zeros({1})}, {"query", at::zeros({1})}};
  EXPECT_EQ(keys_of(normalize_text_encoder_keys(odd, "x")), keys_of(odd));
  EXPECT_EQ(keys_of(normalize_vae_keys(odd, "x")), keys_of(odd));
  // Outside the mid blocks' attention these are other names.
  const store::TensorMap other{{"decoder.up_blocks.0.query.weight", at::zeros({2, 2, 1, 1})}};
  EXPECT_EQ(keys_of(normalize_vae_keys(other, "x")), keys_of(other));
}

TEST(CheckpointKeys, TwoNamesOfOneTensorAreRefused) {
  const std::string attention = "encoder.mid_block.attentions.0.";
  const store::TensorMap vae{{attention + "query.bias", at::zeros({2})}, {attention + "to_q.bias", at::zeros({2})}};
  EXPECT_THROW(normalize_vae_keys(vae, "x"), InputError);
  const store::TensorMap text{{"final_layer_norm.bias", at::zeros({2})},
                              {"text_model.final_layer_norm.bias", at::zeros({2})}};
  EXPECT_THROW(normalize_text_encoder_keys(text, "x"), InputError);
}

}  // namespace
}  // namespace ldmtune::model
