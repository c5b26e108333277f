#include "data/sample_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::data {
namespace {

using Sizes = std::vector<std::uint32_t>;

const std::vector<Sizes> kDatasets{{1}, {7}, {5, 0, 3}, {2, 9, 4, 1}, {0, 64}};

// Rows in the order in which the stream draws them, by bucket, from the first `micro_batches`.
std::map<std::uint32_t, std::vector<Draw>> draws_by_bucket(const SampleStream& stream, std::uint64_t micro_batches) {
  std::map<std::uint32_t, std::vector<Draw>> drawn;
  for (std::uint64_t m = 0; m < micro_batches; ++m) {
    for (const Draw& draw : stream.micro_batch(m)) drawn[draw.bucket].push_back(draw);
  }
  return drawn;
}

std::vector<std::uint32_t> bucket_choices(const SampleStream& stream, std::uint64_t micro_batches) {
  std::vector<std::uint32_t> buckets;
  for (std::uint64_t m = 0; m < micro_batches; ++m) buckets.push_back(stream.micro_batch(m).front().bucket);
  return buckets;
}

// What sample_stream.h documents, written from the text without caches: all earlier places are counted.
std::vector<Draw> documented_micro_batch(const Sizes& sizes, std::uint64_t data_seed, std::uint64_t trial_seed,
                                         std::uint32_t dataset, std::uint32_t size, std::uint64_t m) {
  std::vector<std::uint32_t> stands_for;
  for (std::uint32_t bucket = 0; bucket < sizes.size(); ++bucket)
    stands_for.insert(stands_for.end(), sizes[bucket], bucket);
  const std::uint64_t n = stands_for.size();
  const auto bucket_at = [&](std::uint64_t micro_batch) {
    const auto places =
        permutation({data_seed, Purpose::bucket_order, dataset, micro_batch / n}, static_cast<std::uint32_t>(n));
    return stands_for[places[micro_batch % n]];
  };
  const std::uint32_t bucket = bucket_at(m);
  std::uint64_t k = 0;
  for (std::uint64_t earlier = 0; earlier < m; ++earlier) k += bucket_at(earlier) == bucket;
  std::vector<Draw> draws;
  for (std::uint64_t slot = 0; slot < size; ++slot) {
    const std::uint64_t element = k * size + slot, epoch = element / sizes[bucket];
    const std::uint64_t seed = derive_seed(data_seed, "order", 0) ^ trial_seed;
    const auto order =
        permutation({seed, Purpose::sample_order, dataset, (std::uint64_t{bucket} << 40) + epoch}, sizes[bucket]);
    draws.push_back({m * size + slot, bucket, order[element % sizes[bucket]], epoch});
  }
  return draws;
}

TEST(SampleStream, IsWhatItsHeaderDocuments) {
  for (const Sizes& sizes : kDatasets) {
    for (const std::uint32_t size : {1u, 3u, 16u}) {
      const SampleStream stream(sizes, 12, 345, 1, size);
      for (std::uint64_t m = 0; m < 40; ++m) {
        const auto expected = documented_micro_batch(sizes, 12, 345, 1, size, m);
        const auto found = stream.micro_batch(m);
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          EXPECT_EQ(found[i].draw, expected[i].draw);
          EXPECT_EQ(found[i].bucket, expected[i].bucket);
          EXPECT_EQ(found[i].row, expected[i].row);
          EXPECT_EQ(found[i].epoch, expected[i].epoch);
        }
      }
    }
  }
}

TEST(SampleStream, EveryEpochCoversEachRowOnceAndDropsNothing) {
  for (const Sizes& sizes : kDatasets) {
    const SampleStream stream(sizes, 1, 2, 0, 3);
    for (const auto& [bucket, drawn] : draws_by_bucket(stream, 6 * stream.samples())) {
      const std::size_t rows = sizes[bucket];
      for (std::size_t start = 0; start + rows <= drawn.size(); start += rows) {
        std::set<std::uint32_t> seen;
        for (std::size_t i = start; i < start + rows; ++i) {
          seen.insert(drawn[i].row);
          EXPECT_EQ(drawn[i].epoch, start / rows);
        }
        EXPECT_EQ(seen.size(), rows) << "bucket " << bucket << ", pass " << start / rows;
        EXPECT_LT(*seen.rbegin(), rows);
      }
    }
  }
}

TEST(SampleStream, DatasetsSmallerThanAMicroBatchWrap) {
  const SampleStream stream(Sizes{3}, 4, 5, 0, 8);
  const auto draws = stream.micro_batch(0);
  ASSERT_EQ(draws.size(), 8u);
  EXPECT_EQ(draws[7].epoch, 2u);
  std::map<std::uint32_t, int> counts;
  for (const Draw& draw : draws) ++counts[draw.row];
  for (const auto& [row, count] : counts) EXPECT_GE(count, 2) << row;
}

TEST(SampleStream, AMicroBatchHoldsOneBucketInProportionToItsRows) {
  const Sizes sizes{2, 9, 0, 4};
  const SampleStream stream(sizes, 9, 9, 0, 4);
  std::map<std::uint32_t, std::uint64_t> counts;
  for (std::uint64_t m = 0; m < 15 * 4; ++m) {
    const auto draws = stream.micro_batch(m);
    for (const Draw& draw : draws) EXPECT_EQ(draw.bucket, draws.front().bucket);
    ++counts[draws.front().bucket];
  }
  EXPECT_EQ(counts, (std::map<std::uint32_t, std::uint64_t>{{0, 8}, {1, 36}, {3, 16}}));
}

/// Buckets of sizes 5 + 4, 0 + 3 and 2 + 0 of two datasets; the second weighs 0.5.
StreamRows two_datasets(double second = 0.5) { return {{{5, 4}, {0, 3}, {2, 0}}, {Weight::of(1), Weight::of(second)}}; }

// micro_batch of sample_stream.h, written from the text: passes are laid out one after the other, in full.
std::vector<std::vector<Draw>> documented_mixture(const StreamRows& rows, std::uint64_t data_seed,
                                                  std::uint64_t trial_seed, std::uint32_t size, std::uint64_t count) {
  constexpr std::uint64_t kPasses = 400;
  std::vector<std::vector<std::pair<std::uint32_t, std::uint64_t>>> order(rows.rows.size());  // (row, pass) by bucket
  std::vector<std::uint32_t> turns;
  for (std::uint64_t pass = 0; pass < kPasses; ++pass) {
    std::vector<std::uint32_t> stands_for;
    for (std::uint32_t bucket = 0; bucket < rows.rows.size(); ++bucket) {
      std::vector<std::uint32_t> taken;
      std::uint32_t first = 0;
      for (std::uint64_t dataset = 0; dataset < rows.weights.size(); ++dataset) {
        const RandomStream of_share{data_seed, Purpose::dataset_weight, 0, (std::uint64_t{bucket} << 40) + dataset};
        const std::uint32_t n = rows.rows[bucket][dataset];
        for (const std::uint32_t row : WeightedRows(n, rows.weights[dataset], of_share).taken(pass)) {
          taken.push_back(first + row);
        }
        first += n;
      }
      const RandomStream shuffled{derive_seed(data_seed, "order", 0) ^ trial_seed, Purpose::sample_order, 0,
                                  (std::uint64_t{bucket} << 40) + pass};
      for (const std::uint32_t i : permutation(shuffled, static_cast<std::uint32_t>(taken.size()))) {
        order[bucket].emplace_back(taken[i], pass);
      }
      stands_for.insert(stands_for.end(), taken.size(), bucket);
    }
    const RandomStream places{data_seed, Purpose::bucket_order, 0, pass};
    for (const std::uint32_t place : permutation(places, static_cast<std::uint32_t>(stands_for.size()))) {
      turns.push_back(stands_for[place]);
    }
  }
  std::vector<std::vector<Draw>> micro_batches;
  std::vector<std::size_t> next(rows.rows.size());
  for (std::uint64_t m = 0; m < count; ++m) {
    std::vector<Draw>& draws = micro_batches.emplace_back();
    for (std::uint64_t slot = 0; slot < size; ++slot) {
      const auto [row, pass] = order[turns[m]].at(next[turns[m]]++);
      draws.push_back({m * size + slot, turns[m], row, pass});
    }
  }
  return micro_batches;
}

TEST(SampleStream, DatasetsWithWeightsAreWhatItsHeaderDocuments) {
  for (const double weight : {0.5, 0.123456, 2.25, 0.0}) {
    const StreamRows rows = two_datasets(weight);
    const SampleStream stream(rows, 12, 345, 0, 3);
    const auto expected = documented_mixture(rows, 12, 345, 3, 90);
    for (const std::uint64_t m : {0, 1, 2, 30, 31, 89, 88, 3, 60}) {
      const auto found = stream.micro_batch(m);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(found[i].draw, expected[m][i].draw);
        EXPECT_EQ(found[i].bucket, expected[m][i].bucket) << weight << " " << m;
        EXPECT_EQ(found[i].row, expected[m][i].row) << weight << " " << m;
        EXPECT_EQ(found[i].epoch, expected[m][i].epoch);
      }
    }
  }
}

TEST(SampleStream, DatasetsAreTakenByTheirWeights) {
  const SampleStream stream(two_datasets(), 3, 4, 0, 2);
  // Two passes hold 2 * 7 rows of the first dataset and 7 of the second; micro-batches of 2 need 2 rounds of each.
  std::map<std::pair<std::uint32_t, std::uint32_t>, int> counts;
  for (std::uint64_t m = 0; m < 2 * 21; ++m) {
    for (const Draw& draw : stream.micro_batch(m)) ++counts[{draw.bucket, draw.row}];
  }
  for (const std::uint32_t row : {0, 1, 2, 3, 4}) EXPECT_EQ((counts[{0, row}]), 8) << row;
  for (const std::uint32_t row : {5, 6, 7, 8}) EXPECT_EQ((counts[{0, row}]), 4) << row;
  for (const std::uint32_t row : {0, 1}) EXPECT_EQ((counts[{2, row}]), 8) << row;
  int rare = 0;  // three rows by halves: they need two rounds more to come out even
  for (const std::uint32_t row : {0, 1, 2}) rare += counts[{1, row}];
  EXPECT_EQ(rare, 12);
}

TEST(SampleStream, OneMicroBatchMayHoldSeveralDatasets) {
  const SampleStream stream(StreamRows{{{8, 8}}, {Weight{}, Weight{}}}, 3, 4, 0, 4);
  int mixed = 0;
  for (std::uint64_t m = 0; m < 40; ++m) {
    const auto draws = stream.micro_batch(m);
    const auto of_first = std::count_if(draws.begin(), draws.end(), [](const Draw& draw) { return draw.row < 8; });
    mixed += of_first > 0 && of_first < 4;
  }
  EXPECT_GT(mixed, 20);
}

TEST(SampleStream, WeightsOfOneChangeNothing) {
  const SampleStream one(Sizes{9, 3}, 5, 6, 0, 2), two(StreamRows{{{5, 4}, {0, 3}}, {Weight{}, Weight{}}}, 5, 6, 0, 2);
  for (std::uint64_t m = 0; m < 50; ++m) {
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(one.micro_batch(m)[i].row, two.micro_batch(m)[i].row);
  }
}

TEST(SampleStream, TheTrialSeedChangesRowsButNotBuckets) {
  const Sizes sizes{20, 30};
  const SampleStream one(sizes, 7, 1, 0, 2), other(sizes, 7, 2, 0, 2);
  EXPECT_EQ(bucket_choices(one, 200), bucket_choices(other, 200));
  const auto rows = [](const SampleStream& stream) {
    std::vector<std::uint32_t> found;
    for (std::uint64_t m = 0; m < 50; ++m) {
      for (const Draw& draw : stream.micro_batch(m)) found.push_back(draw.row);
    }
    return found;
  };
  EXPECT_NE(rows(one), rows(other));
  EXPECT_NE(bucket_choices(one, 200), bucket_choices(SampleStream(sizes, 8, 1, 0, 2), 200)) << "data.seed";
  EXPECT_NE(rows(one), rows(SampleStream(sizes, 7, 1, 1, 2))) << "dataset";
}

TEST(SampleStream, AnyMicroBatchCanBeAskedForAtAnyTime) {
  const SampleStream forwards(Sizes{5, 8}, 3, 3, 0, 4), backwards(Sizes{5, 8}, 3, 3, 0, 4);
  std::vector<std::vector<Draw>> expected;
  for (std::uint64_t m = 0; m < 60; ++m) expected.push_back(forwards.micro_batch(m));
  for (std::uint64_t m = 60; m-- > 0;) {
    const auto found = backwards.micro_batch(m);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].row, expected[m][i].row) << m;
  }
}

TEST(SampleStream, EpochsDiffer) {
  const SampleStream stream(Sizes{50}, 1, 1, 0, 50);
  const auto first = stream.micro_batch(0), second = stream.micro_batch(1);
  EXPECT_FALSE(std::equal(first.begin(), first.end(), second.begin(),
                          [](const Draw& a, const Draw& b) { return a.row == b.row; }));
}

TEST(SampleStream, RefusesToStreamNothing) {
  EXPECT_THROW(SampleStream(Sizes{}, 0, 0, 0, 1), InputError);
  EXPECT_THROW(SampleStream(Sizes{0, 0}, 0, 0, 0, 1), InputError);
  EXPECT_THROW(SampleStream(Sizes{4}, 0, 0, 0, 0), Error);
  EXPECT_THROW(SampleStream(StreamRows{{{3, 0}}, {Weight::of(0), Weight{}}}, 0, 0, 0, 1), InputError);
  EXPECT_THROW(SampleStream(StreamRows{{{3'000'000'000, 0}}, {Weight::of(2), Weight{}}}, 0, 0, 0, 1), Error);
}

TEST(Leaves, RanksShareThemInOrder) {
  for (const int ranks : {1, 2, 4, 8}) {
    std::int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const LeafRange range = leaves_of_rank(16, rank, ranks);
      EXPECT_EQ(range.begin, next);
      EXPECT_EQ(range.end - range.begin, 16 / ranks);
      next = range.end;
    }
    EXPECT_EQ(next, 16);
  }
}

std::string leaves_error(std::int64_t global, std::int64_t micro, int ranks) {
  try {
    checked_leaves(global, micro, ranks);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Leaves, CountsThatFit) {
  EXPECT_EQ(checked_leaves(8, 1, 8), 8);
  EXPECT_EQ(checked_leaves(24, 3, 4), 8);
  EXPECT_EQ(checked_leaves(5, 5, 1), 1);
}

TEST(Leaves, CountsThatDoNotFitListTheValidOnes) {
  EXPECT_NE(leaves_error(8, 3, 1).find("multiple of train.micro_batch_size = 3"), std::string::npos);
  EXPECT_NE(leaves_error(0, 1, 1).find("train.global_batch_size"), std::string::npos);
  EXPECT_NE(leaves_error(8, 0, 1).find("train.micro_batch_size"), std::string::npos);
  EXPECT_NE(leaves_error(std::int64_t{1} << 62, 1, 1).find("at most"), std::string::npos);
  EXPECT_NE(leaves_error(12, 2, 1).find("nearest global_batch_size are 8 and 16"), std::string::npos);
  EXPECT_NE(leaves_error(8, 1, 3).find("one of 1, 2, 4, 8"), std::string::npos);
  EXPECT_NE(leaves_error(4, 1, 8).find("one of 1, 2, 4 "), std::string::npos);
}

}  // namespace
}  // namespace ldmtune::data
