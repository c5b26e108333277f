#include "data/weighted_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace ldmtune::data {
namespace {

const std::vector<double> kWeights{0.000001, 0.1, 1.0 / 3, 0.5, 0.75, 1, 1.25, 2, 3.7, 10};

RandomStream stream(std::uint64_t draw = 0) { return {7, Purpose::dataset_weight, 0, draw}; }

/// How often the passes [first, last) take each row.
std::vector<std::uint64_t> times(const WeightedRows& rows, std::uint64_t first, std::uint64_t last) {
  std::vector<std::uint64_t> counts(rows.rows());
  for (std::uint64_t pass = first; pass < last; ++pass) {
    for (const std::uint32_t row : rows.taken(pass)) ++counts.at(row);
  }
  return counts;
}

TEST(Weight, IsAFractionInLowestTerms) {
  EXPECT_EQ(Weight::of(0.5).numerator, 1u);
  EXPECT_EQ(Weight::of(0.5).denominator, 2u);
  EXPECT_EQ(Weight::of(2).denominator, 1u);
  EXPECT_EQ(Weight::of(1.0 / 3).denominator, 1'000'000u);
  EXPECT_EQ(Weight::of(0).numerator, 0u);
  EXPECT_EQ(Weight::of(0.1 + 0.2).value(), 0.3);
  for (const double bad : {-1.0, 1e-7, 1000.5, std::nan("")}) EXPECT_THROW(Weight::of(bad), InputError) << bad;
}

TEST(WeightedRows, EachPassTakesEachRowFloorOrCeilingOfItsWeight) {
  for (const double weight : kWeights) {
    for (const std::uint32_t n : {1u, 2u, 7u, 30u}) {
      const WeightedRows rows(n, Weight::of(weight), stream(n));
      for (std::uint64_t pass = 0; pass < 60; ++pass) {
        const auto taken = rows.taken(pass);
        EXPECT_TRUE(std::is_sorted(taken.begin(), taken.end()));
        EXPECT_EQ(taken.size(), rows.before(pass + 1) - rows.before(pass));
        for (const std::uint64_t count : times(rows, pass, pass + 1)) {
          EXPECT_GE(static_cast<double>(count), std::floor(weight)) << weight << " " << n << " " << pass;
          EXPECT_LE(static_cast<double>(count), std::ceil(weight)) << weight << " " << n << " " << pass;
        }
      }
    }
  }
}

TEST(WeightedRows, OverManyPassesAllRowsAreTakenEquallyOftenAndExactlyByWeight) {
  for (const double weight : kWeights) {
    for (const std::uint32_t n : {1u, 3u, 16u}) {
      const WeightedRows rows(n, Weight::of(weight), stream(n));
      for (const auto& [first, last] : {std::pair{0u, 40u}, {13u, 14u}, {5u, 77u}}) {
        const auto counts = times(rows, first, last);
        const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
        EXPECT_LE(*most - *least, 1u);
        const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
        EXPECT_NEAR(total, weight * n * (last - first), 1.0) << weight << " " << n;
      }
    }
  }
  const WeightedRows half(10, Weight::of(0.5), stream());
  EXPECT_EQ(times(half, 0, 2), std::vector<std::uint64_t>(10, 1));
  EXPECT_EQ(times(half, 100, 108), std::vector<std::uint64_t>(10, 4));
}

TEST(WeightedRows, WholeWeightsTakeAllInOrder) {
  EXPECT_EQ(WeightedRows(3, Weight::of(1), stream()).taken(9), (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(WeightedRows(3, Weight::of(2), stream()).taken(4), (std::vector<std::uint32_t>{0, 0, 1, 1, 2, 2}));
  EXPECT_TRUE(WeightedRows(3, Weight::of(0), stream()).taken(4).empty());
  EXPECT_TRUE(WeightedRows(0, Weight::of(0.3), stream()).taken(4).empty());
}

TEST(WeightedRows, RareSamplesOfManyBucketsDoNotComeInTheSamePass) {
  std::vector<int> in_pass(10);
  for (std::uint64_t bucket = 0; bucket < 200; ++bucket) {
    const WeightedRows one(1, Weight::of(0.1), stream(bucket << 40));
    for (std::uint64_t pass = 0; pass < 10; ++pass) in_pass[pass] += static_cast<int>(one.taken(pass).size());
  }
  EXPECT_EQ(std::accumulate(in_pass.begin(), in_pass.end(), 0), 200);
  EXPECT_GT(*std::min_element(in_pass.begin(), in_pass.end()), 5);
  EXPECT_LT(*std::max_element(in_pass.begin(), in_pass.end()), 40);
}

}  // namespace
}  // namespace ldmtune::data
