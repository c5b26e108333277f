#include "model/attention.h"

#include <gtest/gtest.h>

#include "random_model.h"

namespace ldmtune::model {
namespace {

at::Tensor heads_of(const at::Tensor& tokens, std::int64_t heads) {
  return tokens.reshape({tokens.size(0), tokens.size(1), heads, -1}).permute({0, 2, 1, 3});
}

// Attention by its formula, softmax(q k^T / sqrt(d)) v, with k and v read from different contexts.
at::Tensor reference(const Weights& weights, const at::Tensor& hidden, const at::Tensor& key_context,
                     const at::Tensor& value_context, std::int64_t heads) {
  const auto& taken = weights.taken();
  const at::Tensor q = heads_of(at::matmul(hidden, taken.at("a.to_q.weight").t()), heads);
  const at::Tensor k = heads_of(at::matmul(key_context, taken.at("a.to_k.weight").t()), heads);
  const at::Tensor v = heads_of(at::matmul(value_context, taken.at("a.to_v.weight").t()), heads);
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  const at::Tensor joined = at::matmul(at::softmax(scores, -1), v).permute({0, 2, 1, 3}).flatten(2);
  return at::linear(joined, taken.at("a.to_out.0.weight"), taken.at("a.to_out.0.bias"));
}

constexpr AttentionOptions kOptions{.query_width = 8, .context_width = 5, .heads = 2, .head_width = 4};

TEST(Attention, FollowsItsFormula) {
  Weights weights = random_weights();
  const Attention attention(weights, {"a", 0, true}, kOptions);
  const at::Tensor hidden = random_normal({2, 6, 8}, 1), context = random_normal({2, 3, 5}, 2);
  const at::Tensor expected = reference(weights, hidden, context, context, 2);
  EXPECT_TRUE(at::allclose(attention.forward(hidden, context, nullptr), expected, 1e-4, 1e-5));
}

TEST(Attention, LetsTheHookReplaceWhatKeysAndValuesRead) {
  struct Shifting : ModelHooks {
    KeyValueContext attention_context(const at::Tensor& context, const AttentionSite& site) override {
      name = site.name;
      return {(context + 1.0).to(at::kDouble), context * 2.0};
    }
    std::string name;
  } hooks;
  Weights weights = random_weights();
  const Attention attention(weights, {"a", 3, true}, kOptions);
  const at::Tensor hidden = random_normal({2, 6, 8}, 1), context = random_normal({2, 3, 5}, 2);
  const at::Tensor expected = reference(weights, hidden, context + 1.0, context * 2.0, 2);
  EXPECT_TRUE(at::allclose(attention.forward(hidden, context, &hooks), expected, 1e-4, 1e-5));
  EXPECT_EQ(hooks.name, "a");
}

TEST(Attention, UpcastKeepsLargeScoresFiniteInHalf) {
  AttentionOptions options = kOptions;
  options.upcast = true;
  Weights weights = random_weights(at::kHalf);
  const Attention attention(weights, {"a", 0, true}, options);
  const at::Tensor hidden = (random_normal({1, 4, 8}, 1) * 3000.0).to(at::kHalf);
  const at::Tensor context = (random_normal({1, 3, 5}, 2) * 3000.0).to(at::kHalf);
  const at::Tensor output = attention.forward(hidden, context, nullptr);
  EXPECT_EQ(output.scalar_type(), at::kHalf);
  EXPECT_TRUE(at::isfinite(output).all().item<bool>());
}

TEST(ScaledDotProduct, CausalLooksBackOnly) {
  const at::Tensor q = random_normal({1, 2, 4, 3}, 1), k = random_normal({1, 2, 4, 3}, 2);
  const at::Tensor v = random_normal({1, 2, 4, 3}, 3);
  const at::Tensor before = scaled_dot_product(q, k, v, true);
  const at::Tensor changed = v.clone();
  changed.select(2, 3).add_(5.0);
  const at::Tensor after = scaled_dot_product(q, k, changed, true);
  EXPECT_TRUE(at::equal(before.narrow(1, 0, 3), after.narrow(1, 0, 3)));
  EXPECT_FALSE(at::allclose(before.select(1, 3), after.select(1, 3)));
}

TEST(FeedForward, GatesOneHalfByTheOther) {
  Weights weights = random_weights();
  const FeedForward feed_forward(weights, "ff", 4);
  const at::Tensor hidden = random_normal({2, 3, 4}, 7);
  const auto& taken = weights.taken();
  const at::Tensor projected = at::linear(hidden, taken.at("ff.net.0.proj.weight"), taken.at("ff.net.0.proj.bias"));
  const at::Tensor gated = projected.narrow(2, 0, 16) * at::gelu(projected.narrow(2, 16, 16));
  const at::Tensor expected = at::linear(gated, taken.at("ff.net.2.weight"), taken.at("ff.net.2.bias"));
  EXPECT_TRUE(at::allclose(feed_forward.forward(hidden, nullptr), expected, 1e-5, 1e-6));
}

}  // namespace
}  // namespace ldmtune::model
