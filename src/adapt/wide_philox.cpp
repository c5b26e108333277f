#include "adapt/wide_philox.h"

namespace ldmtune::adapt {

namespace {

// Philox4x32's multipliers and Weyl increments of the key (Salmon et al., SC 2011, table 2 and section 4.2).
constexpr std::uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

using Lanes = std::array<std::uint32_t, kWideBlocks>;

struct Counters {
  Lanes c0, c1, c2, c3;
};

void round(Counters& c, std::uint32_t key0, std::uint32_t key1) {
  for (std::size_t i = 0; i < kWideBlocks; ++i) {
    const std::uint64_t product0 = kMultiplier0 * c.c0[i], product1 = kMultiplier1 * c.c2[i];
    c.c0[i] = static_cast<std::uint32_t>(product1 >> 32) ^ c.c1[i] ^ key0;
    c.c1[i] = static_cast<std::uint32_t>(product1);
    c.c2[i] = static_cast<std::uint32_t>(product0 >> 32) ^ c.c3[i] ^ key1;
    c.c3[i] = static_cast<std::uint32_t>(product0);
  }
}

}  // namespace

std::array<std::uint32_t, 4 * kWideBlocks> wide_words(const RandomStream& stream, std::uint32_t first_block) {
  Counters c;
  for (std::size_t i = 0; i < kWideBlocks; ++i) c.c0[i] = first_block + static_cast<std::uint32_t>(i);
  c.c1.fill(static_cast<std::uint32_t>(stream.purpose) << 24 | (stream.dataset & 0xffffffu));
  c.c2.fill(static_cast<std::uint32_t>(stream.draw));
  c.c3.fill(static_cast<std::uint32_t>(stream.draw >> 32));
  auto key0 = static_cast<std::uint32_t>(stream.seed), key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int i = 0; i < kRounds; ++i, key0 += kWeyl0, key1 += kWeyl1) round(c, key0, key1);
  std::array<std::uint32_t, 4 * kWideBlocks> words;
  for (std::size_t i = 0; i < kWideBlocks; ++i) {
    words[4 * i] = c.c0[i];
    words[4 * i + 1] = c.c1[i];
    words[4 * i + 2] = c.c2[i];
    words[4 * i + 3] = c.c3[i];
  }
  return words;
}

}  // namespace ldmtune::adapt
