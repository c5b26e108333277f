// Resnets, changes of size and the time embedding.

#include <gtest/gtest.h>

#include "model/resnet_block.h"
#include "model/timestep_embedding.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

TEST(ResnetBlock2D, AddsTheTimeToEveryPosition) {
  Weights weights = random_weights();
  const ResnetBlock2D resnet(weights, "r", {.in_channels = 4, .out_channels = 8, .time_channels = 6, .groups = 2});
  const at::Tensor image = random_normal({2, 4, 5, 3}, 1);
  const at::Tensor time = random_normal({2, 6}, 2);
  const at::Tensor output = resnet.forward(image, time);
  EXPECT_EQ(output.sizes(), (at::IntArrayRef{2, 8, 5, 3}));
  EXPECT_FALSE(at::allclose(output, resnet.forward(image, time + 1.0)));
  EXPECT_EQ(weights.taken().count("r.conv_shortcut.weight"), 1u);
}

TEST(ResnetBlock2D, DividesTheSumByItsScaleFactor) {
  const ResnetOptions options{.in_channels = 4, .out_channels = 4, .groups = 2, .output_scale_factor = 2.0};
  ResnetOptions plain = options;
  plain.output_scale_factor = 1.0;
  Weights first = random_weights(), second = random_weights();
  const at::Tensor image = random_normal({1, 4, 4, 4}, 3);
  const at::Tensor halved = ResnetBlock2D(first, "r", options).forward(image, {});
  EXPECT_TRUE(at::allclose(halved * 2.0, ResnetBlock2D(second, "r", plain).forward(image, {})));
  EXPECT_EQ(first.taken().count("r.conv_shortcut.weight"), 0u);
  EXPECT_EQ(first.taken().count("r.time_emb_proj.weight"), 0u);
}

TEST(Downsample2D, PadsTheFarSideWherePaddingIsNone) {
  Weights weights = random_weights();
  const Downsample2D both(weights, "both", 2, 1), far(weights, "far", 2, 0);
  const at::Tensor image = random_normal({1, 2, 6, 7}, 4);
  EXPECT_EQ(both.forward(image).sizes(), (at::IntArrayRef{1, 2, 3, 4}));
  EXPECT_EQ(far.forward(image).sizes(), (at::IntArrayRef{1, 2, 3, 3}));
  const at::Tensor padded = at::zeros({1, 2, 7, 8});
  padded.narrow(2, 0, 6).narrow(3, 0, 7).copy_(image);
  const at::Tensor expected =
      at::conv2d(padded, weights.taken().at("far.conv.weight"), weights.taken().at("far.conv.bias"), 2);
  EXPECT_TRUE(at::allclose(far.forward(image), expected));
}

TEST(Upsample2D, ReachesOddSizes) {
  Weights weights = random_weights();
  const Upsample2D upsample(weights, "up", 2);
  EXPECT_EQ(upsample.forward(random_normal({1, 2, 3, 2}, 5), 5, 4).sizes(), (at::IntArrayRef{1, 2, 5, 4}));
}

TEST(SinusoidalEmbedding, HoldsSineAndCosineOfFallingFrequencies) {
  const at::Tensor timesteps = at::tensor({0, 250}, at::kLong);
  const at::Tensor embedding = SinusoidalEmbedding(6, true, 0.0, at::kCPU).forward(timesteps);
  EXPECT_EQ(embedding.scalar_type(), at::kFloat);
  for (int i = 0; i < 3; ++i) {
    const double angle = 250.0 * std::pow(10000.0, -i / 3.0);
    EXPECT_NEAR(embedding[1][i].item<double>(), std::cos(angle), 1e-4);
    EXPECT_NEAR(embedding[1][3 + i].item<double>(), std::sin(angle), 1e-4);
    EXPECT_EQ(embedding[0][i].item<double>(), 1.0);
    EXPECT_EQ(embedding[0][3 + i].item<double>(), 0.0);
  }
}

TEST(SinusoidalEmbedding, FollowsOrderShiftAndOddWidths) {
  const at::Tensor timestep = at::tensor({7.5}, at::kDouble);
  const at::Tensor embedding = SinusoidalEmbedding(7, false, 1.0, at::kCPU).forward(timestep)[0];
  ASSERT_EQ(embedding.numel(), 7);
  for (int i = 0; i < 3; ++i) {
    const double angle = 7.5 * std::pow(10000.0, -i / 2.0);
    EXPECT_NEAR(embedding[i].item<double>(), std::sin(angle), 1e-5);
    EXPECT_NEAR(embedding[3 + i].item<double>(), std::cos(angle), 1e-5);
  }
  EXPECT_EQ(embedding[6].item<double>(), 0.0);
}

TEST(TimestepEmbedding, IsTwoLinearLayers) {
  Weights weights = random_weights();
  const TimestepEmbedding embedding(weights, "t", 4, 6, Activation::silu);
  const at::Tensor input = random_normal({3, 4}, 6);
  const auto& taken = weights.taken();
  const at::Tensor middle = at::silu(at::linear(input, taken.at("t.linear_1.weight"), taken.at("t.linear_1.bias")));
  EXPECT_TRUE(at::allclose(embedding.forward(input),
                           at::linear(middle, taken.at("t.linear_2.weight"), taken.at("t.linear_2.bias"))));
}

}  // namespace
}  // namespace ldmtune::model
