#include "model/memory_tape.h"

#include <gtest/gtest.h>

namespace ldmtune::model {
namespace {

constexpr double kF32 = 4;

TEST(MemoryTape, CountsWhatLivesAndItsPeak) {
  MemoryTape tape(/*records=*/false);
  {
    const Counted a = tape.tensor(10, kF32), b = tape.tensor(5, kF32);
    EXPECT_EQ(tape.peak_bytes(), 60);
  }
  const Counted c = tape.tensor(3, kF32);
  EXPECT_EQ(tape.peak_bytes(), 60);
  EXPECT_EQ(tape.kept_bytes(), 0);
}

TEST(MemoryTape, AMatrixKeepsItsInputOnlyWhereItTrains) {
  for (const bool trains : {false, true}) {
    MemoryTape tape(true);
    const Counted x = tape.tensor(10, kF32, /*needs_gradient=*/true);
    const Counted y = tape.linear(x, 20, 200, trains);
    EXPECT_TRUE(y.needs_gradient);
    EXPECT_EQ(tape.kept_bytes(), trains ? 40 : 0);
  }
}

TEST(MemoryTape, NothingIsKeptWhereNothingNeedsAGradient) {
  MemoryTape tape(true);
  const Counted y = tape.activation(tape.norm(tape.tensor(10, kF32), false));
  EXPECT_FALSE(y.needs_gradient);
  EXPECT_EQ(tape.kept_bytes(), 0);
  tape.activation(tape.norm(tape.tensor(10, kF32), true));
  EXPECT_EQ(tape.kept_bytes(), 80) << "the norm's input and the activation's";
}

TEST(MemoryTape, ABlockOfNormActivationAndConvolutionKeepsOneTensorWhereItIsFrozen) {
  for (const bool trains : {false, true}) {
    MemoryTape tape(true);
    const Counted x = tape.tensor(10, kF32, /*needs_gradient=*/true);
    tape.convolution(tape.norm_activation(x, trains), 20, 200, trains);
    EXPECT_EQ(tape.kept_bytes(), trains ? 80 : 40);
  }
}

TEST(MemoryTape, AGateKeepsItsInput) {
  MemoryTape tape(true);
  const Counted y = tape.gated_gelu(tape.tensor(10, kF32, true));
  EXPECT_EQ(y.elements, 5);
  EXPECT_EQ(tape.kept_bytes(), 40);
}

TEST(MemoryTape, ASharedInputIsKeptOnce) {
  MemoryTape tape(true);
  const Counted x = tape.tensor(10, kF32, true);
  const Counted q = tape.linear(x, 10, 1, true), k = tape.linear(x, 10, 1, true), v = tape.linear(x, 10, 1, true);
  tape.attention(q, k, v, /*rows=*/2);
  EXPECT_EQ(tape.kept_bytes(), 40 + 3 * 40 + 40 + 8) << "x; q, k, v; the output; two sums";
}

TEST(MemoryTape, BackwardLetsGoOfWhatWasKept) {
  MemoryTape tape(true);
  Counted x = tape.tensor(100, kF32, true);
  for (int i = 0; i < 10; ++i) x = tape.activation(x);
  EXPECT_EQ(tape.kept_bytes(), 4000);
  EXPECT_EQ(tape.peak_bytes(), 4400);
  tape.backward(x);
  EXPECT_EQ(tape.kept_bytes(), 0);
  EXPECT_EQ(tape.peak_bytes(), 4400 + 800) << "the output's gradient and its input's";
}

TEST(MemoryTape, ARecomputedBlockKeepsItsInput) {
  MemoryTape tape(true);
  const MemoryTape::Block deep = [&tape](const std::vector<Counted>& inputs) {
    Counted x = inputs.front();
    for (int i = 0; i < 10; ++i) x = tape.activation(x);
    return x;
  };
  Counted x = tape.tensor(100, kF32, true);
  for (int i = 0; i < 10; ++i) x = tape.recomputed(deep, {x});
  EXPECT_EQ(tape.kept_bytes(), 4000);
  tape.backward(x);
  EXPECT_GE(tape.peak_bytes(), 4000 + 4000) << "the last block's activations beside all blocks' inputs";
  EXPECT_LE(tape.peak_bytes(), 4000 + 4000 + 1600);
}

}  // namespace
}  // namespace ldmtune::model
