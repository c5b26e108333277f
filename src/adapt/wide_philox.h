#pragma once
// RandomStream's words, many blocks at once: dropout masks need as many numbers as a layer has activations.

#include <array>
#include <cstdint>

#include "core/random.h"

namespace ldmtune::adapt {

inline constexpr std::size_t kWideBlocks = 16;

/// Words 4 * first_block ... 4 * (first_block + 16) - 1 of the stream, equal to stream.word(i). About five times as
/// fast as block by block, because all sixteen counters advance in vector registers.
std::array<std::uint32_t, 4 * kWideBlocks> wide_words(const RandomStream& stream, std::uint32_t first_block);

}  // namespace ldmtune::adapt
