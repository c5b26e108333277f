#include "adapt/dropout.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "adapt/wide_philox.h"
#include "core/error.h"
#include "core/random.h"

namespace ldmtune::adapt {

namespace {

/// Uniforms are multiples of 2^-24, so that uniform >= p is an exact comparison of integers.
std::uint32_t threshold_of(double p) { return static_cast<std::uint32_t>(std::ceil(std::ldexp(p, 24))); }

void fill_row(std::span<float> row, const RandomStream& stream, std::uint32_t threshold, float scale) {
  for (std::uint32_t block = 0; !row.empty(); block += kWideBlocks) {
    const auto words = wide_words(stream, block);
    std::array<float, words.size()> mask;
    for (std::size_t i = 0; i < words.size(); ++i) mask[i] = words[i] >> 8 >= threshold ? scale : 0.0f;
    const std::size_t count = std::min(row.size(), mask.size());
    std::copy_n(mask.begin(), count, row.begin());
    row = row.subspan(count);
  }
}

}  // namespace

at::Tensor dropout_mask(at::IntArrayRef shape, double p, const DropoutKey& key,
                        const std::vector<std::uint64_t>& draws) {
  if (shape.empty() || shape[0] != static_cast<std::int64_t>(draws.size()))
    fail("dropout of ", shape, " rows needs as many draw indices, found ", draws.size());
  at::Tensor mask = at::empty(shape, at::kFloat);
  const std::uint64_t seed = derive_seed(key.seed, key.module, key.layer);
  const std::int64_t row_elements = shape[0] > 0 ? mask.numel() / shape[0] : 0;
  const std::uint32_t threshold = threshold_of(p);
  const auto scale = static_cast<float>(1.0 / (1.0 - p));
  float* data = mask.mutable_data_ptr<float>();
  at::parallel_for(0, shape[0], 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      fill_row({data + row * row_elements, static_cast<std::size_t>(row_elements)},
               {seed, Purpose::dropout, key.dataset, draws[static_cast<std::size_t>(row)]}, threshold, scale);
  });
  return mask;
}

}  // namespace ldmtune::adapt
