#include <gtest/gtest.h>

#include "expect_error.h"
#include "model/clip_text_encoder.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

CLIPTextEncoder small_encoder(const nlohmann::json& changes = {}, at::ScalarType dtype = at::kFloat) {
  nlohmann::json config = small_text_config();
  if (!changes.is_null()) config.update(changes);
  Weights weights = random_weights(dtype);
  return CLIPTextEncoder(config, weights);
}

const at::Tensor kIds = at::tensor({3, 14, 15, 9, 2, 6, 5, 35}, at::kLong).reshape({2, 4});

TEST(CLIPTextEncoder, GivesAVectorATokenWithUnitStatisticsBeforeTheLastNorm) {
  const CLIPTextEncoder encoder = small_encoder();
  EXPECT_EQ(encoder.forward(kIds).sizes(), (at::IntArrayRef{2, 4, 12}));
  EXPECT_EQ(encoder.hidden_size(), 12);
  EXPECT_EQ(encoder.vocab_size(), 50);
  EXPECT_EQ(encoder.max_position_embeddings(), 10);
  const auto& parameters = encoder.parameters();
  const at::Tensor normalized = (encoder.forward(kIds) - parameters.at("text_model.final_layer_norm.bias")) /
                                parameters.at("text_model.final_layer_norm.weight");
  EXPECT_TRUE(at::allclose(normalized.mean(-1), at::zeros({2, 4}), 0.0, 1e-5));
}

TEST(CLIPTextEncoder, LooksBackOnly) {
  const CLIPTextEncoder encoder = small_encoder();
  const at::Tensor changed = kIds.clone();
  changed.select(1, 2).fill_(40);
  const at::Tensor before = encoder.forward(kIds), after = encoder.forward(changed);
  EXPECT_TRUE(at::equal(before.narrow(1, 0, 2), after.narrow(1, 0, 2)));
  EXPECT_FALSE(at::allclose(before.select(1, 3), after.select(1, 3)));
}

TEST(CLIPTextEncoder, OffersEmbeddingsAndProjectionsToTheHook) {
  const CLIPTextEncoder encoder = small_encoder();
  RecordingHooks hooks;
  const at::Tensor hooked = encoder.forward(kIds, &hooks);
  EXPECT_TRUE(at::equal(hooked, encoder.forward(kIds)));
  ASSERT_EQ(hooks.embedded_ids.size(), 1u);
  EXPECT_TRUE(hooks.embedded_ids[0].is_same(kIds));
  const std::string layer = "text_model.encoder.layers.1.";
  const std::vector<std::string> expected{layer + "self_attn.q_proj", layer + "self_attn.k_proj",
                                          layer + "self_attn.v_proj", layer + "self_attn.out_proj",
                                          layer + "mlp.fc1",          layer + "mlp.fc2"};
  ASSERT_EQ(hooks.linear_names.size(), 12u);
  for (const std::string& name : expected) EXPECT_EQ(hooks.linear_widths.count(name), 1u) << name;
  EXPECT_EQ(hooks.forwards, 0) << "begin_forward belongs to the UNet";
}

TEST(CLIPTextEncoder, ReadsReplacedEmbeddings) {
  struct Replacing : ModelHooks {
    at::Tensor token_embedding(const at::Tensor& ids, const at::Tensor& embedded) override {
      return at::where(ids.unsqueeze(-1).eq(15), vector, embedded);
    }
    at::Tensor vector = random_normal({12}, 8).set_requires_grad(true);
  } hooks;
  const CLIPTextEncoder encoder = small_encoder();
  const at::Tensor replaced = encoder.forward(kIds, &hooks);
  const at::Tensor plain = encoder.forward(kIds);
  EXPECT_TRUE(at::equal(replaced[1], plain[1])) << "token 15 stands in the first text only";
  EXPECT_FALSE(at::allclose(replaced[0], plain[0]));
  replaced.pow(3).sum().backward();
  EXPECT_GT(hooks.vector.grad().abs().max().item<double>(), 0.0);
}

TEST(CLIPTextEncoder, SkipsItsLastLayers) {
  const CLIPTextEncoder whole = small_encoder();
  ASSERT_EQ(whole.num_hidden_layers(), 2);
  EXPECT_TRUE(at::equal(whole.forward(kIds, nullptr, 1), whole.forward(kIds)));
  const CLIPTextEncoder shorter = small_encoder({{"num_hidden_layers", 1}});
  EXPECT_TRUE(at::equal(whole.forward(kIds, nullptr, 2), shorter.forward(kIds))) << "weights are keyed by name";
  EXPECT_FALSE(at::allclose(whole.forward(kIds, nullptr, 2), whole.forward(kIds)));
  expect_input_error([&] { whole.forward(kIds, nullptr, 3); }, {"clip_skip", "2", "found 3"});
  expect_input_error([&] { whole.forward(kIds, nullptr, 0); }, {"clip_skip", "found 0"});
}

TEST(CLIPTextEncoder, ComputesInItsOwnType) {
  EXPECT_EQ(small_encoder({}, at::kBFloat16).forward(kIds).scalar_type(), at::kBFloat16);
}

TEST(CLIPTextEncoder, RefusesWhatIsNotBuilt) {
  const std::vector<std::pair<std::string, nlohmann::json>> refused{
      {"hidden_act", "gelu_new"}, {"num_attention_heads", 5}, {"model_type", "t5"}, {"attention_dropout", 0.1}};
  for (const auto& [key, value] : refused) {
    expect_input_error(
        [&, k = key, v = value] {
          small_encoder({{k, v}});
        },
        {"CLIPTextModel", key + " = " + value.dump()});
  }
}

TEST(CLIPTextEncoder, RefusesTextsLongerThanItsPositions) {
  const CLIPTextEncoder encoder = small_encoder();
  EXPECT_THROW(encoder.forward(at::zeros({1, 11}, at::kLong)), Error);
  EXPECT_EQ(encoder.forward(at::zeros({1, 10}, at::kLong)).size(1), 10);
}

}  // namespace
}  // namespace ldmtune::model
