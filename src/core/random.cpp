#include "core/random.h"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>
#include <utility>

namespace ldmtune {
namespace {

using Block = std::array<std::uint32_t, 4>;

Block philox(std::uint64_t seed, const Block& counter) {
  const r123::Philox4x32::key_type key{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const r123::Philox4x32::ctr_type in{{counter[0], counter[1], counter[2], counter[3]}};
  const auto out = r123::Philox4x32()(in, key);
  return {out[0], out[1], out[2], out[3]};
}

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// Box-Muller on two words.
std::pair<float, float> normal_pair(std::uint32_t a, std::uint32_t b) {
  constexpr double kScale = 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log((a + 1.0) * kScale));
  const double angle = 2.0 * std::numbers::pi * (b * kScale);
  return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

}  // namespace

Block RandomStream::block(std::uint32_t index) const {
  return philox(seed, {index, static_cast<std::uint32_t>(purpose) << 24 | (dataset & 0xffffffu),
                       static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(draw >> 32)});
}

std::uint32_t RandomStream::word(std::uint64_t index) const {
  return block(static_cast<std::uint32_t>(index / 4))[index % 4];
}

float RandomStream::uniform(std::uint64_t index) const { return static_cast<float>(word(index) >> 8) * 0x1p-24f; }

std::uint64_t RandomStream::integer(std::uint64_t index, std::uint64_t bound) const {
  const std::uint64_t low = word(2 * index), high = word(2 * index + 1);
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(high << 32 | low) * bound >> 64);
}

void RandomStream::fill_normal(std::span<float> out) const {
  for (std::size_t i = 0; i < out.size(); i += 4) {
    const Block words = block(static_cast<std::uint32_t>(i / 4));
    const auto [z0, z1] = normal_pair(words[0], words[1]);
    const auto [z2, z3] = normal_pair(words[2], words[3]);
    const std::array<float, 4> values{z0, z1, z2, z3};
    for (std::size_t j = 0; j < 4 && i + j < out.size(); ++j) out[i + j] = values[j];
  }
}

void RandomStream::fill_uniform(std::span<float> out) const {
  for (std::size_t i = 0; i < out.size(); i += 4) {
    const Block words = block(static_cast<std::uint32_t>(i / 4));
    for (std::size_t j = 0; j < 4 && i + j < out.size(); ++j) {
      out[i + j] = static_cast<float>(words[j] >> 8) * 0x1p-24f;
    }
  }
}

std::uint64_t derive_seed(std::uint64_t seed, std::string_view name, std::uint32_t index) {
  constexpr std::uint32_t kDomain = 0x6c646d74;  // "ldmt"
  const std::uint64_t hash = fnv1a(name);
  const Block words =
      philox(seed, {static_cast<std::uint32_t>(hash), static_cast<std::uint32_t>(hash >> 32), index, kDomain});
  return static_cast<std::uint64_t>(words[1]) << 32 | words[0];
}

std::vector<std::uint32_t> permutation(const RandomStream& stream, std::uint32_t n) {
  std::vector<std::uint32_t> order(n);
  for (std::uint32_t i = 0; i < n; ++i) order[i] = i;
  for (std::uint32_t i = n; i-- > 1;) {
    std::swap(order[i], order[stream.integer(n - 1 - i, std::uint64_t{i} + 1)]);
  }
  return order;
}

}  // namespace ldmtune
