#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace ldmtune {
namespace {

TEST(RandomStream, PhiloxKnownAnswer) {
  // Known answer of Philox4x32-10 for a zero key and counter (Random123's kat_vectors); purpose 0 makes word 1 zero.
  const RandomStream stream{0, static_cast<Purpose>(0), 0, 0};
  const std::array<std::uint32_t, 4> expected{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  EXPECT_EQ(stream.block(0), expected);
}

TEST(RandomStream, FieldsAllMatter) {
  const RandomStream a{1, Purpose::noise, 0, 7};
  for (const RandomStream& b : {RandomStream{2, Purpose::noise, 0, 7}, RandomStream{1, Purpose::timestep, 0, 7},
                                RandomStream{1, Purpose::noise, 1, 7}, RandomStream{1, Purpose::noise, 0, 8},
                                RandomStream{std::uint64_t{1} << 32 | 1, Purpose::noise, 0, 7},
                                RandomStream{1, Purpose::noise, 0, std::uint64_t{1} << 32 | 7}}) {
    EXPECT_NE(a.block(0), b.block(0));
  }
}

TEST(RandomStream, ShorterFillIsAPrefix) {
  const RandomStream stream{5, Purpose::noise, 0, 3};
  std::vector<float> longer(64), shorter(13);
  stream.fill_normal(longer);
  stream.fill_normal(shorter);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin()));
  stream.fill_uniform(longer);
  for (std::size_t i = 0; i < longer.size(); ++i) EXPECT_EQ(longer[i], stream.uniform(i));
}

TEST(RandomStream, NormalMoments) {
  std::vector<float> z(200000);
  RandomStream{11, Purpose::noise, 0, 0}.fill_normal(z);
  const double n = static_cast<double>(z.size());
  const double mean = std::accumulate(z.begin(), z.end(), 0.0) / n;
  double square = 0, fourth = 0;
  for (const float x : z) square += double{x} * x, fourth += std::pow(double{x}, 4);
  // Five standard errors of each moment.
  EXPECT_NEAR(mean, 0.0, 5 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1.0, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3.0, 5 * std::sqrt(96 / n));
}

TEST(RandomStream, IntegerStaysBelowItsBoundAndCoversIt) {
  const RandomStream stream{3, Purpose::timestep, 0, 0};
  std::vector<int> seen(10);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const std::uint64_t value = stream.integer(i, 10);
    ASSERT_LT(value, 10u);
    ++seen[value];
  }
  for (const int count : seen) EXPECT_GT(count, 120);
}

TEST(DeriveSeed, DependsOnNameIndexAndSeed) {
  const std::uint64_t seed = derive_seed(1, "768.k.linear.0.weight");
  EXPECT_EQ(seed, derive_seed(1, "768.k.linear.0.weight"));
  EXPECT_NE(seed, derive_seed(2, "768.k.linear.0.weight"));
  EXPECT_NE(seed, derive_seed(1, "768.v.linear.0.weight"));
  EXPECT_NE(seed, derive_seed(1, "768.k.linear.0.weight", 1));
}

TEST(Permutation, HoldsEachElementOnce) {
  for (const std::uint32_t n : {0u, 1u, 2u, 97u}) {
    auto order = permutation({4, Purpose::sample_order, 0, 9}, n);
    std::sort(order.begin(), order.end());
    for (std::uint32_t i = 0; i < n; ++i) EXPECT_EQ(order[i], i);
  }
  EXPECT_NE(permutation({4, Purpose::sample_order, 0, 9}, 97), permutation({4, Purpose::sample_order, 0, 10}, 97));
}

TEST(Permutation, IsUniformOverThreeElements) {
  std::map<std::vector<std::uint32_t>, int> counts;
  for (std::uint64_t draw = 0; draw < 6000; ++draw) ++counts[permutation({8, Purpose::subset, 0, draw}, 3)];
  EXPECT_EQ(counts.size(), 6u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 5 * std::sqrt(1000.0));
}

}  // namespace
}  // namespace ldmtune
