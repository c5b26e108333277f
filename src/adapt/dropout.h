#pragma once
// Dropout whose mask is a pure function of what a row is, not of when it is computed.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ldmtune::adapt {

/// What keys a mask.
struct DropoutKey {
  std::uint64_t seed = 0;   ///< the trial's
  std::string module;       ///< "768.k.linear.2"
  std::uint32_t layer = 0;  ///< attention-layer index
  std::uint32_t dataset = 0;
};

/// Mask f32 of `shape` (B, ...) on the CPU: 1 / (1 - p) where uniform >= p, else 0. Row b's elements in row-major order
/// come from RandomStream{derive_seed(seed, module, layer), Purpose::dropout, dataset, draws[b]}, whatever the other
/// rows are. draws has B entries.
at::Tensor dropout_mask(at::IntArrayRef shape, double p, const DropoutKey& key,
                        const std::vector<std::uint64_t>& draws);

}  // namespace ldmtune::adapt
