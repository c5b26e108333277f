#include "adapt/dropout.h"

#include <gtest/gtest.h>

#include "adapt/wide_philox.h"
#include "core/error.h"
#include "core/random.h"

namespace ldmtune::adapt {
namespace {

const DropoutKey kKey{7, "768.k.linear.2", 3, 1};

TEST(DropoutMask, IsRecomputedFromTheDocumentedLayout) {
  const at::Tensor mask = dropout_mask({2, 5, 17}, 0.3, kKey, {11, 12}).reshape({2, 85});
  for (std::int64_t row = 0; row < 2; ++row) {
    const RandomStream stream{derive_seed(7, "768.k.linear.2", 3), Purpose::dropout, 1,
                              11 + static_cast<std::uint64_t>(row)};
    for (std::int64_t i = 0; i < 85; ++i) {
      const float expected = stream.uniform(static_cast<std::uint64_t>(i)) >= 0.3 ? static_cast<float>(1 / 0.7) : 0.0f;
      EXPECT_EQ(mask[row][i].item<float>(), expected) << row << " " << i;
    }
  }
}

TEST(WideWords, AreTheStreamsOwn) {
  const RandomStream stream{0x0123456789abcdefu, Purpose::dropout, 0xabcdefu, 0xfedcba9876543210u};
  for (const std::uint32_t first : {0u, 5u, 0xfffffff0u}) {
    const auto words = wide_words(stream, first);
    for (std::size_t i = 0; i < words.size(); ++i)
      EXPECT_EQ(words[i], stream.word(std::uint64_t{first} * 4 + i)) << first << " " << i;
  }
}

TEST(DropoutMask, OfARowDoesNotDependOnItsNeighbours) {
  const at::Tensor together = dropout_mask({3, 7, 16}, 0.5, kKey, {100, 200, 300});
  const at::Tensor alone = dropout_mask({1, 7, 16}, 0.5, kKey, {200});
  const at::Tensor reversed = dropout_mask({3, 7, 16}, 0.5, kKey, {300, 200, 100});
  EXPECT_TRUE(at::equal(together[1], alone[0]));
  EXPECT_TRUE(at::equal(together[0], reversed[2]));
}

TEST(DropoutMask, DiffersByEachPartOfItsKey) {
  const at::Tensor mask = dropout_mask({1, 64}, 0.5, kKey, {1});
  for (const DropoutKey& other : {DropoutKey{8, "768.k.linear.2", 3, 1}, DropoutKey{7, "768.v.linear.2", 3, 1},
                                  DropoutKey{7, "768.k.linear.2", 4, 1}, DropoutKey{7, "768.k.linear.2", 3, 2}})
    EXPECT_FALSE(at::equal(mask, dropout_mask({1, 64}, 0.5, other, {1})));
  EXPECT_FALSE(at::equal(mask, dropout_mask({1, 64}, 0.5, kKey, {2})));
}

TEST(DropoutMask, KeepsTheGivenShareAndTheMean) {
  for (const double p : {0.1, 0.3, 0.9}) {
    const at::Tensor mask = dropout_mask({4, 50000}, p, kKey, {1, 2, 3, 4});
    const double dropped = at::eq(mask, 0).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(dropped, p, 5 * std::sqrt(p * (1 - p) / 200000)) << p;
    EXPECT_NEAR(mask.to(at::kDouble).mean().item<double>(), 1.0, 0.05) << p;
  }
}

TEST(DropoutMask, NeedsOneDrawPerRow) {
  EXPECT_THROW(dropout_mask({2, 4}, 0.5, kKey, {1}), Error);
  EXPECT_THROW(dropout_mask({1, 4}, 0.5, kKey, {}), Error);
}

}  // namespace
}  // namespace ldmtune::adapt
