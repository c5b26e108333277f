#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// There is no generator state: every number is a pure function of what it is for. Another program can recompute
// them from this layout:
//
//   key      = (low 32 bits of seed, high 32 bits of seed)
//   counter  = (block, purpose << 24 | dataset, low 32 bits of draw, high 32 bits of draw)
//
// One block gives four 32-bit words; word i of a stream is word i % 4 of block i / 4. For numbers that also depend on
// a name (initial weights, dropout masks) the seed is first replaced by derive_seed(seed, name, index).

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ldmtune {

enum class Purpose : std::uint32_t {
  noise = 1,             ///< training noise, one draw per sample of the stream
  timestep = 2,          ///< training timestep
  posterior = 3,         ///< latent sampled from the encoder's posterior
  caption_dropout = 4,   ///< whether a caption becomes the empty one
  caption_template = 5,  ///< which template line
  sample_order = 6,      ///< epoch permutations of one bucket; draw = bucket << 40 | epoch
  bucket_order = 7,      ///< which bucket a micro-batch takes; draw = round
  weight_init = 8,       ///< seed derived by the parameter's name
  dropout = 9,           ///< seed derived by the parameter's name and attention-layer index
  validation_noise =
      10,  ///< draw = first 8 bytes of the image's sha256, little endian; dataset = index in the timestep list
  initial_latent = 11,    ///< sample: draw = image index
  sampler_noise = 12,     ///< stochastic samplers; draw = image index << 16 | step
  subset = 13,            ///< order in which data.subset grows
  timestep_stratum = 14,  ///< which part of the timesteps each draw of an update takes; draw = update
  noise_offset = 15,      ///< training noise that is equal over a channel, one number a channel
  caption_tags = 16,      ///< order of a caption's tags
  tag_dropout = 17,       ///< which tags of a caption go; element = the tag's place
  sweep_draw = 19,        ///< seed derived by the option's name; draw = index of the random draw
  dataset_weight = 20,    ///< which rows of a dataset a pass takes; draw = bucket << 40 | place of the dataset
};

/// One stream of random words, a pure function of its four fields.
struct RandomStream {
  std::uint64_t seed = 0;
  Purpose purpose = Purpose::noise;
  std::uint32_t dataset = 0;  ///< below 2^24
  std::uint64_t draw = 0;

  /// The four words of one block.
  std::array<std::uint32_t, 4> block(std::uint32_t index) const;
  std::uint32_t word(std::uint64_t index) const;
  /// Uniform in [0, 1): the word's upper 24 bits times 2^-24.
  float uniform(std::uint64_t index) const;
  /// Uniform integer in [0, bound): (words 2*index | words 2*index+1 << 32) * bound >> 64.
  std::uint64_t integer(std::uint64_t index, std::uint64_t bound) const;
  /// Standard normals by Box-Muller in double: a block's words (a, b, c, d) give r cos(p), r sin(p) from (a, b), then
  /// from (c, d), with r = sqrt(-2 ln((a + 1) 2^-32)) and p = 2 pi b 2^-32. Element i belongs to block i / 4.
  void fill_normal(std::span<float> out) const;
  /// Uniform floats, element i from word i.
  void fill_uniform(std::span<float> out) const;
};

/// A seed that depends on a name too: the first two words of the Philox block with key = seed and counter =
/// (low, high 32 bits of FNV-1a-64(name), index, 0x6c646d74).
std::uint64_t derive_seed(std::uint64_t seed, std::string_view name, std::uint32_t index = 0);

/// Fisher-Yates permutation of [0, n): for i = n-1 .. 1 swap element i with stream.integer(n - 1 - i, i + 1).
std::vector<std::uint32_t> permutation(const RandomStream& stream, std::uint32_t n);

}  // namespace ldmtune
