#include "optim/clipping.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

at::Tensor gradient(std::int64_t size) { return (at::arange(size, at::kFloat) * 0.37).sin(); }

TEST(Clipping, BlockSumsAreTheSquaredNorm) {
  const at::Tensor flat = gradient(2 * kNormBlock + 1003);
  const auto sums = block_square_sums(flat, 0, flat.numel());
  ASSERT_EQ(sums.size(), 3u);
  EXPECT_NEAR(std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0)), flat.to(at::kDouble).norm().item<double>(),
              1e-9);
  EXPECT_NEAR(sums[2], flat.narrow(0, 2 * kNormBlock, 1003).to(at::kDouble).square().sum().item<double>(), 1e-9);
}

TEST(Clipping, SlicesGiveTheSameBits) {
  const at::Tensor flat = gradient(3 * kNormBlock + 5);
  const auto whole = block_square_sums(flat, 0, flat.numel());
  std::vector<double> joined;
  for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, kNormBlock},
                                   {kNormBlock, 3 * kNormBlock},
                                   {3 * kNormBlock, flat.numel()}}) {
    const auto sums = block_square_sums(flat, begin, end);
    joined.insert(joined.end(), sums.begin(), sums.end());
  }
  EXPECT_EQ(whole, joined);
  EXPECT_TRUE(block_square_sums(flat, kNormBlock, kNormBlock).empty());
  EXPECT_TRUE(block_square_sums(flat, flat.numel(), flat.numel()).empty()) << "more ranks than blocks";
}

TEST(Clipping, HalvingAgreesAndSlicesAlike) {
  const at::Tensor flat = gradient(2 * kNormBlock + 777);
  const auto expected = block_square_sums(flat, 0, flat.numel()), halved = block_square_sums_by_halving(flat);
  ASSERT_EQ(halved.size(), expected.size());
  for (std::size_t i = 0; i < halved.size(); ++i) EXPECT_NEAR(halved[i] / expected[i], 1, 1e-13);
  const auto tail = block_square_sums_by_halving(flat.narrow(0, kNormBlock, kNormBlock + 777));
  EXPECT_EQ(tail, (std::vector<double>{halved[1], halved[2]}));
}

TEST(Clipping, LargeAndTinyGradientsNeitherOverflowNorVanish) {
  EXPECT_DOUBLE_EQ(block_square_sums(at::full({4}, 1e30f), 0, 4)[0], 4 * std::pow(double{1e30f}, 2));
  EXPECT_DOUBLE_EQ(block_square_sums(at::full({4}, 1e-30f), 0, 4)[0], 4 * std::pow(double{1e-30f}, 2));
  EXPECT_TRUE(std::isnan(block_square_sums(at::full({1}, NAN), 0, 1)[0]));
}

TEST(Clipping, RefusesRangesThatCutABlock) {
  const at::Tensor flat = gradient(kNormBlock);
  EXPECT_THROW(block_square_sums(flat, 16, kNormBlock), Error);
  EXPECT_THROW(block_square_sums(flat, 0, kNormBlock + 1), Error);
  EXPECT_THROW(block_square_sums(flat.to(at::kDouble), 0, 1), Error);
}

TEST(Clipping, CoefficientShrinksOnly) {
  EXPECT_DOUBLE_EQ(clip_coefficient(0.5, 1), 1);
  EXPECT_DOUBLE_EQ(clip_coefficient(4, 1), 1 / (4 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_coefficient(1e9, 0), 1) << "0 turns clipping off";
  EXPECT_DOUBLE_EQ(clip_coefficient(std::numeric_limits<double>::infinity(), 1), 0);
  EXPECT_TRUE(std::isnan(clip_coefficient(std::nan(""), 1))) << "NaN must not look like a small gradient";
}

}  // namespace
}  // namespace ldmtune::optim
