#include "comm/halving.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"

namespace ldmtune::comm {
namespace {

const std::vector<std::int64_t> kSizes{0,
                                       1,
                                       kBlockElements - 1,
                                       kBlockElements,
                                       kBlockElements + 1,
                                       3 * kBlockElements + 17,
                                       64 * kBlockElements,
                                       21'900'000,
                                       std::int64_t{5'000'000'000}};

TEST(OwnedSlice, CoversEverythingOnceAtEveryWorldSize) {
  for (const std::int64_t elements : kSizes)
    for (int size = 1; size <= 64; size *= 2) {
      std::int64_t next = 0;
      for (int position = 0; position < size; ++position) {
        const Range slice = owned_slice(elements, slice_position(position, size), size);
        EXPECT_EQ(slice.begin, next) << elements << " elements, " << size << " ranks, position " << position;
        EXPECT_LE(slice.begin, slice.end);
        EXPECT_TRUE(slice.begin % kBlockElements == 0 || slice.size() == 0);
        next = slice.end;
      }
      EXPECT_EQ(next, elements);
    }
}

TEST(OwnedSlice, SharesTheBlocksEvenly) {
  for (int size = 1; size <= 64; size *= 2) {
    const std::int64_t blocks = 333;
    for (int rank = 0; rank < size; ++rank) {
      const std::int64_t mine = owned_slice(blocks * kBlockElements, rank, size).size() / kBlockElements;
      EXPECT_GE(mine, blocks / size);
      EXPECT_LE(mine, blocks / size + 1);
    }
  }
}

TEST(OwnedSlice, OfOneRankIsEverything) { EXPECT_EQ(owned_slice(1234567, 0, 1), (Range{0, 1234567})); }

TEST(OwnedSlice, RefusesCountsThatAreNoPowerOfTwo) {
  for (const int size : {0, -1, 3, 6, 12, 63}) EXPECT_THROW(owned_slice(100, 0, size), Error) << size;
  EXPECT_THROW(owned_slice(100, 4, 4), Error);
  EXPECT_THROW(owned_slice(100, -1, 4), Error);
}

TEST(SlicePosition, IsItsOwnInverse) {
  for (int size = 1; size <= 64; size *= 2)
    for (int rank = 0; rank < size; ++rank) EXPECT_EQ(slice_position(slice_position(rank, size), size), rank);
  EXPECT_EQ(slice_position(1, 8), 4);
  EXPECT_EQ(slice_position(3, 4), 3);
}

TEST(HalvingSteps, PartnersMirrorEachOther) {
  for (const std::int64_t elements : kSizes)
    for (const int size : {2, 4, 16})
      for (int rank = 0; rank < size; ++rank) {
        const auto steps = halving_steps(elements, rank, size);
        for (std::size_t i = 0; i < steps.size(); ++i) {
          EXPECT_EQ(steps[i].partner, rank ^ (1 << i));
          const HalvingStep mirror = halving_steps(elements, steps[i].partner, size)[i];
          EXPECT_EQ(mirror.partner, rank);
          EXPECT_EQ(mirror.keep, steps[i].give);
          EXPECT_EQ(mirror.give, steps[i].keep);
        }
      }
}

TEST(HalvingSteps, EachStepSplitsWhatTheLastOneKept) {
  const auto steps = halving_steps(10 * kBlockElements + 5, 5, 8);
  Range range{0, 10 * kBlockElements + 5};
  for (const HalvingStep& step : steps) {
    EXPECT_EQ(std::min(step.keep.begin, step.give.begin), range.begin);
    EXPECT_EQ(std::max(step.keep.end, step.give.end), range.end);
    EXPECT_EQ(step.keep.size() + step.give.size(), range.size());
    range = step.keep;
  }
  EXPECT_EQ(range, owned_slice(10 * kBlockElements + 5, 5, 8));
}

TEST(AddOnHost, AddsEveryElement) {
  for (const std::int64_t n : {0, 1, 63, 64, 65, 1000}) {
    std::vector<float> a(static_cast<std::size_t>(n) + 1, 1.5f), b(static_cast<std::size_t>(n) + 1);
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i);
    add_on_host(a.data(), b.data(), n);
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(a[static_cast<std::size_t>(i)], 1.5f + static_cast<float>(i));
    EXPECT_EQ(a.back(), 1.5f) << "wrote past n = " << n;
  }
}

}  // namespace
}  // namespace ldmtune::comm
