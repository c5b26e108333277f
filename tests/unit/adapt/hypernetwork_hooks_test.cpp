#include <gtest/gtest.h>

#include "small_network.h"

namespace ldmtune::adapt {
namespace {

model::AttentionSite self_site(std::int64_t layer) { return {"attn1", layer, false}; }
model::AttentionSite cross_site(std::int64_t layer) { return {"attn2", layer, true}; }

TEST(HypernetworkHooks, TextContextIsComputedOncePerForward) {
  const SmallNetwork small(full_spec());
  const at::Tensor text = normals({2, 7, 12}, 1);
  const auto hooks = small.network.hooks(*small.arena, training_context({1, 2}));
  hooks->begin_forward();
  const auto first = hooks->attention_context(text, cross_site(1));
  const auto second = hooks->attention_context(text, cross_site(3));
  EXPECT_TRUE(first.key.is_same(second.key));
  EXPECT_TRUE(first.value.is_same(second.value));
  EXPECT_FALSE(at::equal(first.key, first.value));
  EXPECT_TRUE(at::equal(first.key, small.network.apply(*small.arena, 12, "k", text, training_context({1, 2}), 0)));
  hooks->begin_forward();
  EXPECT_FALSE(hooks->attention_context(text, cross_site(1)).key.is_same(first.key));
}

TEST(HypernetworkHooks, AnotherTextTensorIsComputedAnew) {
  const SmallNetwork small(full_spec());
  const auto hooks = small.network.hooks(*small.arena, {});
  hooks->begin_forward();
  const at::Tensor first_text = normals({2, 7, 12}, 1), second_text = normals({2, 7, 12}, 2);
  const at::Tensor first = hooks->attention_context(first_text, cross_site(1)).key;
  const at::Tensor second = hooks->attention_context(second_text, cross_site(3)).key;
  EXPECT_TRUE(at::equal(second, small.network.apply(*small.arena, 12, "k", second_text, {}, 0)));
  EXPECT_FALSE(at::equal(first, second));
}

TEST(HypernetworkHooks, SelfAttentionIsPerLayer) {
  const SmallNetwork small(full_spec());
  const at::Tensor x = normals({2, 7, 8}, 1);
  const ForwardContext context = training_context({1, 2});
  const auto hooks = small.network.hooks(*small.arena, context);
  hooks->begin_forward();
  for (const std::uint32_t layer : {2u, 4u}) {
    const auto result = hooks->attention_context(x, self_site(layer));
    EXPECT_TRUE(at::equal(result.key, small.network.apply(*small.arena, 8, "k", x, context, layer + 1)));
    EXPECT_TRUE(at::equal(result.value, small.network.apply(*small.arena, 8, "v", x, context, layer + 1)));
  }
  EXPECT_FALSE(at::equal(hooks->attention_context(x, self_site(2)).key, hooks->attention_context(x, self_site(4)).key))
      << "two layers shared a dropout mask";
}

TEST(HypernetworkHooks, OtherWidthsAreUntouched) {
  const SmallNetwork small(full_spec());
  const auto hooks = small.network.hooks(*small.arena, {});
  hooks->begin_forward();
  const at::Tensor x = normals({2, 7, 16}, 1);
  for (const auto& site : {self_site(0), cross_site(1)}) {
    const auto result = hooks->attention_context(x, site);
    EXPECT_TRUE(result.key.is_same(x));
    EXPECT_TRUE(result.value.is_same(x));
  }
}

TEST(HypernetworkHooks, ReadTheArenaAsItIsWhenCalled) {
  const SmallNetwork small(full_spec());
  const auto hooks = small.network.hooks(*small.arena, {});
  const at::Tensor x = normals({1, 3, 8}, 1);
  const at::Tensor before = hooks->attention_context(x, self_site(0)).key;
  small.arena->parameters().mul_(0.5);
  EXPECT_FALSE(at::equal(before, hooks->attention_context(x, self_site(0)).key));
}

TEST(HypernetworkHooks, GradientsOfASharedTextContextAddUp) {
  const SmallNetwork small(full_spec());
  const at::Tensor text = normals({2, 7, 12}, 1);
  const auto gradient_of = [&](int uses) {
    small.arena->gradients().zero_();
    const auto hooks = small.network.hooks(*small.arena, training_context({1, 2}));
    hooks->begin_forward();
    at::Tensor loss = at::zeros({});
    for (int layer = 0; layer < uses; ++layer)
      loss = loss + hooks->attention_context(text, cross_site(layer)).key.square().sum();
    loss.backward();
    return small.arena->gradients().clone();
  };
  const at::Tensor once = gradient_of(1);
  EXPECT_GT(once.abs().max().item<float>(), 0.0f);
  EXPECT_TRUE(at::allclose(gradient_of(3), once * 3, 1e-4, 1e-4));
}

}  // namespace
}  // namespace ldmtune::adapt
