#pragma once
// Which part of a vector each rank keeps and gives away while ranks combine nearest partner first. Pure functions.

#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace ldmtune::comm {

/// One exchange of recursive halving: this rank sends `give` to `partner` and goes on with `keep`.
struct HalvingStep {
  int partner = 0;
  Range keep;
  Range give;
};

/// The exchanges of `rank` over [0, elements), at distance 1, 2, 4 ...; the last `keep` is its owned slice. Each split
/// falls on a block boundary, and the lower half (larger by at most a block) goes to the lower rank. Errors: as
/// owned_slice.
std::vector<HalvingStep> halving_steps(std::int64_t elements, int rank, int world_size);

}  // namespace ldmtune::comm
