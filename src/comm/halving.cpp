#include "comm/halving.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/error.h"

namespace ldmtune::comm {

namespace {

void check_world(int rank, int world_size) {
  if (world_size < 1 || !std::has_single_bit(static_cast<unsigned>(world_size)))
    fail("the canonical tree needs a number of ranks that is a power of two, not ", world_size);
  if (rank < 0 || rank >= world_size) fail("rank ", rank, " does not exist among ", world_size, " ranks");
}

std::int64_t middle_of(Range range) {
  const std::int64_t blocks = (range.size() + kBlockElements - 1) / kBlockElements;
  return std::min(range.end, range.begin + (blocks + 1) / 2 * kBlockElements);
}

}  // namespace

std::vector<HalvingStep> halving_steps(std::int64_t elements, int rank, int world_size) {
  check_world(rank, world_size);
  std::vector<HalvingStep> steps;
  Range range{0, elements};
  for (int distance = 1; distance < world_size; distance *= 2) {
    const std::int64_t middle = middle_of(range);
    HalvingStep step{rank ^ distance, {range.begin, middle}, {middle, range.end}};
    if (rank & distance) std::swap(step.keep, step.give);
    range = step.keep;
    steps.push_back(step);
  }
  return steps;
}

Range owned_slice(std::int64_t elements, int rank, int world_size) {
  const auto steps = halving_steps(elements, rank, world_size);
  return steps.empty() ? Range{0, elements} : steps.back().keep;
}

int slice_position(int rank, int world_size) {
  check_world(rank, world_size);
  int position = 0;
  for (int bit = 1; bit < world_size; bit *= 2) position = position * 2 + ((rank & bit) != 0 ? 1 : 0);
  return position;
}

void add_on_host(float* a, const float* b, std::int64_t n) {
  // Pieces of a fixed length become vector instructions at -O2 too.
  constexpr std::int64_t kPiece = 64;
  std::int64_t i = 0;
  for (; i + kPiece <= n; i += kPiece) {
    float* __restrict__ sum = a + i;
    const float* __restrict__ term = b + i;
    for (std::int64_t j = 0; j < kPiece; ++j) sum[j] += term[j];
  }
  for (; i < n; ++i) a[i] += b[i];
}

}  // namespace ldmtune::comm
