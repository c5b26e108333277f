#include "model/frugal_layers.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace ldmtune::model {
namespace {

using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

struct Outcome {
  at::Tensor output;
  std::vector<at::Tensor> gradients;  ///< undefined where none was asked for
};

/// Of `inputs`, those of `needed` with a gradient; the output's gradient is a fixed random one.
Outcome run(const Operation& operation, const std::vector<at::Tensor>& inputs, const std::vector<bool>& needed) {
  std::vector<at::Tensor> leaves;
  for (std::size_t i = 0; i < inputs.size(); ++i) leaves.push_back(inputs[i].clone().requires_grad_(needed[i]));
  Outcome result{operation(leaves), {}};
  at::manual_seed(1);
  result.output.backward(at::randn_like(result.output.detach()));
  for (const at::Tensor& leaf : leaves) result.gradients.push_back(leaf.grad());
  return result;
}

void expect_same_bits(const Operation& ours, const Operation& library, const std::vector<at::Tensor>& inputs,
                      const std::vector<bool>& needed) {
  const Outcome a = run(ours, inputs, needed), b = run(library, inputs, needed);
  EXPECT_TRUE(at::equal(a.output, b.output));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(a.gradients[i].defined(), needed[i]) << "input " << i;
    if (!needed[i]) continue;
    EXPECT_TRUE(at::equal(a.gradients[i], b.gradients[i])) << "input " << i;
  }
}

struct Shape {
  std::int64_t batch, in, out, side, kernel, stride, padding;
};

class FrugalConvolution : public testing::TestWithParam<Shape> {};

TEST_P(FrugalConvolution, HasTheLibrarysBits) {
  const Shape& s = GetParam();
  at::manual_seed(0);
  const std::vector<at::Tensor> inputs{at::randn({s.batch, s.in, s.side, s.side}),
                                       at::randn({s.out, s.in, s.kernel, s.kernel}), at::randn({s.out})};
  const Operation ours = [&](const std::vector<at::Tensor>& x) {
    return convolution(x[0], x[1], x[2], s.stride, s.padding);
  };
  const Operation library = [&](const std::vector<at::Tensor>& x) {
    return at::conv2d(x[0], x[1], x[2], s.stride, s.padding);
  };
  expect_same_bits(ours, library, inputs, {true, false, false});
  expect_same_bits(ours, library, inputs, {true, true, true});
  expect_same_bits(ours, library, inputs, {false, true, false});
}

INSTANTIATE_TEST_SUITE_P(Shapes, FrugalConvolution,
                         testing::Values(Shape{1, 32, 64, 8, 3, 1, 1}, Shape{8, 64, 64, 8, 3, 1, 1},
                                         Shape{2, 64, 64, 8, 3, 2, 1}, Shape{2, 32, 64, 9, 3, 2, 0},
                                         Shape{4, 96, 32, 4, 1, 1, 0}, Shape{1, 320, 320, 16, 3, 1, 1}));

class FrugalNorm : public testing::TestWithParam<std::vector<bool>> {};

TEST_P(FrugalNorm, HasTheLibrarysBits) {
  at::manual_seed(0);
  const std::vector<at::Tensor> inputs{at::randn({3, 64, 7, 5}), at::randn({64}), at::randn({64})};
  const Operation ours = [](const std::vector<at::Tensor>& x) { return group_norm_silu(x[0], x[1], x[2], 32, 1e-5); };
  const Operation library = [](const std::vector<at::Tensor>& x) {
    return at::silu(at::group_norm(x[0], 32, x[1], x[2], 1e-5));
  };
  expect_same_bits(ours, library, inputs, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Trains, FrugalNorm,
                         testing::Values(std::vector<bool>{true, false, false}, std::vector<bool>{true, true, true},
                                         std::vector<bool>{false, true, false}, std::vector<bool>{false, false, true}));

TEST(FrugalNorm, TakesAnInputThatIsNotContiguous) {
  at::manual_seed(0);
  const std::vector<at::Tensor> inputs{at::randn({2, 5, 64}), at::randn({64}), at::randn({64})};
  const Operation ours = [](const std::vector<at::Tensor>& x) {
    return group_norm_silu(x[0].transpose(1, 2), x[1], x[2], 8, 1e-6);
  };
  const Operation library = [](const std::vector<at::Tensor>& x) {
    return at::silu(at::group_norm(x[0].transpose(1, 2), 8, x[1], x[2], 1e-6));
  };
  expect_same_bits(ours, library, inputs, {true, false, false});
}

TEST(GatedGelu, HasTheLibrarysBits) {
  at::manual_seed(0);
  const Operation library = [](const std::vector<at::Tensor>& x) {
    const auto halves = x[0].chunk(2, -1);
    return halves[0] * at::gelu(halves[1]);
  };
  expect_same_bits([](const std::vector<at::Tensor>& x) { return gated_gelu(x[0]); }, library, {at::randn({2, 9, 80})},
                   {true});
}

/// Whether anybody but the caller holds the tensor.
bool is_kept(const at::Tensor& tensor) { return tensor.use_count() > 1; }

TEST(FrugalLayers, KeepWhatTheyNeedOnly) {
  at::manual_seed(0);
  const at::Tensor weight = at::randn({16, 16, 3, 3}), bias = at::randn({16});
  const at::Tensor x = at::randn({1, 16, 4, 4}).requires_grad_(true);
  const at::Tensor normalized = group_norm_silu(x * 2, bias, bias, 4, 1e-5);
  const at::Tensor output = convolution(normalized, weight, bias, 1, 1);
  ASSERT_TRUE(output.requires_grad());
  EXPECT_FALSE(is_kept(normalized)) << "a frozen convolution does not keep its input";
  const at::Tensor trained = convolution(normalized, weight.clone().requires_grad_(true), bias, 1, 1);
  EXPECT_TRUE(is_kept(normalized)) << "one that trains does";
}

TEST(FrugalLayers, RecordNothingWithoutGradients) {
  at::manual_seed(0);
  const at::Tensor x = at::randn({1, 16, 4, 4}), weight = at::randn({16, 16, 3, 3}), bias = at::randn({16});
  EXPECT_FALSE(convolution(x, weight, bias, 1, 1).requires_grad());
  EXPECT_FALSE(group_norm_silu(x, bias, bias, 4, 1e-5).requires_grad());
  EXPECT_FALSE(gated_gelu(x).requires_grad());
  const at::Tensor leaf = x.clone().requires_grad_(true);
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(convolution(leaf, weight, bias, 1, 1).requires_grad());
  EXPECT_FALSE(group_norm_silu(leaf, bias, bias, 4, 1e-5).requires_grad());
  EXPECT_FALSE(gated_gelu(leaf).requires_grad());
}

}  // namespace
}  // namespace ldmtune::model
