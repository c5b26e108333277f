#include "comm/canonical_tree.h"

#include <gtest/gtest.h>

#include <bit>
#include <string>

namespace ldmtune::comm {
namespace {

/// Floats of very different size, so that nearly every order of additions gives other bits.
std::vector<float> awkward_floats(std::int64_t n) {
  std::vector<float> values;
  std::uint32_t state = 2463534242u;
  for (std::int64_t i = 0; i < n; ++i) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    const int exponent = static_cast<int>(state % 23) - 11;
    values.push_back(static_cast<float>(static_cast<double>(state) * 0x1p-32 - 0.5) *
                     static_cast<float>(1 << (exponent + 11)));
  }
  return values;
}

template <class T>
T accumulated(const std::vector<T>& leaves, std::size_t* deepest = nullptr) {
  LeafAccumulator<T> accumulator([](T& a, const T& b) { a = a + b; });
  for (const T& leaf : leaves) {
    accumulator.push(leaf);
    if (deepest != nullptr) *deepest = std::max(*deepest, accumulator.depth());
  }
  return accumulator.finish();
}

/// A leaf whose sum spells out the tree.
struct Spelled {
  std::string text;
  friend Spelled operator+(const Spelled& a, const Spelled& b) { return {"(" + a.text + "+" + b.text + ")"}; }
};

TEST(CanonicalTree, SplitsAtTheLargestPowerOfTwoBelowTheWidth) {
  EXPECT_EQ(canonical_split(0, 2), 1);
  EXPECT_EQ(canonical_split(0, 3), 2);
  EXPECT_EQ(canonical_split(0, 8), 4);
  EXPECT_EQ(canonical_split(8, 17), 16);
  EXPECT_EQ(canonical_split(10, 15), 14);
}

TEST(CanonicalTree, SpellsTheExpectedTree) {
  std::vector<Spelled> leaves;
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g"}) leaves.push_back({name});
  EXPECT_EQ(canonical_sum(leaves).text, "(((a+b)+(c+d))+((e+f)+g))");
  EXPECT_EQ(accumulated(leaves).text, "(((a+b)+(c+d))+((e+f)+g))");
}

TEST(CanonicalTree, SumOfNothingIsZero) { EXPECT_EQ(canonical_sum(std::vector<float>{}), 0.0f); }

TEST(CanonicalTree, AccumulatorEqualsTheRecursiveSumBitwiseForAnyCount) {
  for (std::int64_t n = 1; n <= 130; ++n) {
    const auto leaves = awkward_floats(n);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(accumulated(leaves)), std::bit_cast<std::uint32_t>(canonical_sum(leaves)))
        << n;
  }
}

TEST(CanonicalTree, IsAnotherSumThanTheSequentialOne) {
  // Otherwise the bitwise tests above could not fail.
  const auto leaves = awkward_floats(128);
  float sequential = 0.0f;
  for (float leaf : leaves) sequential += leaf;
  EXPECT_NE(sequential, canonical_sum(leaves));
}

TEST(CanonicalTree, AccumulatorHoldsAtMostOnePlusLog2PartialSums) {
  for (const std::int64_t n : {1, 2, 8, 64, 100, 1024}) {
    std::size_t deepest = 0;
    accumulated(awkward_floats(n), &deepest);
    EXPECT_LE(deepest, 1 + std::bit_width(static_cast<std::uint64_t>(n))) << n;
  }
}

TEST(CanonicalTree, SumsOfAlignedPartsCombineToTheWhole) {
  const auto leaves = awkward_floats(64);
  for (const std::int64_t ranks : {1, 2, 4, 8, 16, 32, 64}) {
    std::vector<float> partial;
    for (std::int64_t rank = 0; rank < ranks; ++rank)
      partial.push_back(canonical_sum(leaves, rank * 64 / ranks, (rank + 1) * 64 / ranks));
    EXPECT_EQ(canonical_sum(partial), canonical_sum(leaves)) << ranks;
  }
}

TEST(CanonicalTree, AccumulatorIsEmptyAfterFinishAndSaysSo) {
  LeafAccumulator<float> accumulator([](float& a, const float& b) { a += b; });
  accumulator.push(1.0f);
  EXPECT_EQ(accumulator.finish(), 1.0f);
  EXPECT_EQ(accumulator.depth(), 0u);
  EXPECT_THROW(accumulator.finish(), std::logic_error);
}

}  // namespace
}  // namespace ldmtune::comm
