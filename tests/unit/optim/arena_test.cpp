#include "optim/arena.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

std::vector<ParameterSpec> specs() {
  return {{"a.weight", {3, 5}, "first"}, {"a.bias", {3}, "first"}, {"b", {2, 2, 4}, "second"}};
}

TEST(Arena, AlignsEveryParameterTo64Bytes) {
  const Arena arena(specs());
  ASSERT_EQ(arena.entries().size(), 3u);
  EXPECT_EQ(arena.entries()[0].offset, 0);
  EXPECT_EQ(arena.entries()[1].offset, 16);
  EXPECT_EQ(arena.entries()[2].offset, 32);
  EXPECT_EQ(arena.size(), 48);
  EXPECT_EQ(arena.trainable_elements(), 15 + 3 + 16);
  for (const ArenaEntry& entry : arena.entries()) {
    const auto address = reinterpret_cast<std::uintptr_t>(arena.parameter(entry.spec.name).const_data_ptr());
    EXPECT_EQ(address % 64, 0u) << entry.spec.name;
  }
}

TEST(Arena, AdoptsAModulesTensorAsItsParameter) {
  Arena arena(specs());
  const at::Tensor held = at::full({3, 5}, 4.0f), in_a_map = held;
  arena.adopt("a.weight", in_a_map);
  EXPECT_EQ(arena.parameter_views().at("a.weight").sum().item<float>(), 60) << "its values came along";
  EXPECT_EQ(held.const_data_ptr(), arena.parameters().const_data_ptr());
  arena.parameters().slice(0, 0, 15).fill_(2);
  EXPECT_EQ(held.sum().item<float>(), 30) << "the module sees an update";

  (held * 3).sum().backward();
  EXPECT_EQ(arena.gradients().slice(0, 0, 15).sum().item<float>(), 45);
  arena.use_gradients(at::zeros({arena.size()}));
  (held * 2).sum().backward();
  EXPECT_EQ(arena.gradients().slice(0, 0, 15).sum().item<float>(), 30) << "a fresh buffer";
  EXPECT_THROW(arena.adopt("a.bias", held), Error);
  EXPECT_THROW(arena.adopt("c", held), Error);
}

TEST(Arena, ANarrowerCopyFollowsItsParameterAndSendsItsGradientsBack) {
  Arena arena(specs());
  arena.parameters().fill_(1.0f + 1.0f / 512);  // between two numbers of bf16
  const at::Tensor held = at::zeros({3, 5}, at::kBFloat16), in_a_map = held;
  arena.adopt_copy("a.weight", in_a_map);
  EXPECT_EQ(held.to(at::kFloat).sum().item<float>(), 15) << "rounded";
  EXPECT_EQ(arena.parameters()[0].item<float>(), 1.0f + 1.0f / 512) << "the parameter is not";
  arena.parameters().fill_(2);
  arena.refresh_copies();
  EXPECT_EQ(held.to(at::kFloat).sum().item<float>(), 30);

  // 256 + 1 has no place in bf16: sums are fp32.
  (held * 256).sum().backward();
  held.sum().backward();
  EXPECT_EQ(arena.gradients()[0].item<float>(), 257);
  EXPECT_FALSE(held.grad().defined());
  arena.use_gradients(at::zeros({arena.size()}));
  (held * 2).sum().backward();
  EXPECT_EQ(arena.gradients().slice(0, 0, 15).sum().item<float>(), 30) << "a fresh buffer";
  EXPECT_THROW(arena.adopt_copy("a.weight", at::zeros({3, 5})), Error);
  EXPECT_THROW(arena.adopt_copy("a.bias", held), Error);
}

TEST(Arena, ParametersAreLeavesInsideTheFlatBuffer) {
  const Arena arena(specs());
  const at::Tensor& bias = arena.parameter("a.bias");
  EXPECT_TRUE(bias.is_leaf());
  EXPECT_TRUE(bias.requires_grad());
  EXPECT_FALSE(arena.parameters().requires_grad());
  arena.parameters().fill_(2);
  EXPECT_EQ(bias.sum().item<float>(), 6);
  arena.parameter_views().at("a.bias").fill_(7);
  EXPECT_EQ(arena.parameters()[16].item<float>(), 7);
  EXPECT_EQ(arena.parameters()[19].item<float>(), 2) << "padding is not the parameter's";
}

TEST(Arena, BackwardAddsIntoTheFlatGradients) {
  const Arena arena(specs());
  const at::Tensor input = at::arange(5, at::kFloat);
  const auto loss = [&] { return at::mv(arena.parameter("a.weight"), input).sum() + arena.parameter("a.bias").sum(); };
  loss().backward();
  loss().backward();
  const at::Tensor expected = (2 * input).repeat({3});
  EXPECT_TRUE(at::equal(arena.gradients().narrow(0, 0, 15), expected));
  EXPECT_TRUE(at::equal(arena.gradients().narrow(0, 16, 3), at::full({3}, 2.f)));
  EXPECT_EQ(arena.gradients().narrow(0, 19, 29).abs().sum().item<float>(), 0) << "padding and unused parameters";
  EXPECT_TRUE(arena.gradient_views().at("a.bias").is_alias_of(arena.gradients()));
}

TEST(Arena, GradientsMoveToAnotherBuffer) {
  Arena arena(specs());
  const at::Tensor before = arena.gradients();
  const at::Tensor leaf = at::full({arena.size()}, 0.5f);
  arena.use_gradients(leaf);
  (3 * arena.parameter("b").sum()).backward();
  EXPECT_EQ(before.abs().sum().item<float>(), 0);
  EXPECT_TRUE(at::equal(leaf.narrow(0, 32, 16), at::full({16}, 3.5f))) << "added to what the caller left there";
  EXPECT_TRUE(arena.gradients().is_same(leaf));
  EXPECT_TRUE(arena.parameter("b").grad().is_alias_of(leaf));
}

TEST(Arena, UpdatingTheFlatBufferBetweenForwardAndBackwardIsReported) {
  const Arena arena(specs());
  const at::Tensor loss = arena.parameter("b").square().sum();
  arena.parameters().add_(1);
  EXPECT_THROW(loss.backward(), c10::Error);
}

TEST(Arena, ViewsOfAnotherFlatBufferFollowTheLayout) {
  const Arena arena(specs());
  const auto views = arena.views_of(at::arange(arena.size(), at::kFloat));
  EXPECT_EQ(views.at("b").sizes(), at::IntArrayRef({2, 2, 4}));
  EXPECT_EQ(views.at("b").select(0, 0).select(0, 0).select(0, 1).item<float>(), 33);
}

TEST(Arena, RefusesWhatDoesNotFit) {
  Arena arena(specs());
  EXPECT_THROW(arena.parameter("missing"), Error);
  EXPECT_THROW(arena.views_of(at::zeros({3})), Error);
  EXPECT_THROW(arena.use_gradients(at::zeros({arena.size()}, at::kDouble)), Error);
  EXPECT_THROW(arena.use_gradients(at::zeros({2 * arena.size()}).slice(0, 0, 2 * arena.size(), 2)), Error);
  EXPECT_THROW(Arena({{"same", {1}, "g"}, {"same", {2}, "g"}}), Error);
}

}  // namespace
}  // namespace ldmtune::optim
