#include "adapt/dropout.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <span>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::adapt {

namespace {

/// The least multiple of 2^-24 that is not below p. Uniforms are such multiples, so comparing floats with it is exact.
float threshold_of(double p) { return static_cast<float>(std::ldexp(std::ceil(std::ldexp(p, 24)), -24)); }

}  // namespace

at::Tensor dropout_mask(at::IntArrayRef shape, double p, const DropoutKey& key,
                        const std::vector<std::uint64_t>& draws) {
  if (shape.empty() || shape[0] != static_cast<std::int64_t>(draws.size()))
    fail("dropout of ", shape, " rows needs as many draw indices, found ", draws.size());
  at::Tensor mask = at::empty(shape, at::kFloat);
  const std::uint64_t seed = derive_seed(key.seed, key.module, key.layer);
  const std::int64_t row_elements = shape[0] > 0 ? mask.numel() / shape[0] : 0;
  const float threshold = threshold_of(p), scale = static_cast<float>(1.0 / (1.0 - p));
  float* data = mask.mutable_data_ptr<float>();
  at::parallel_for(0, shape[0], 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::span<float> values(data + row * row_elements, static_cast<std::size_t>(row_elements));
      RandomStream{seed, Purpose::dropout, key.dataset, draws[static_cast<std::size_t>(row)]}.fill_uniform(values);
      for (float& value : values) value = value >= threshold ? scale : 0.0f;
    }
  });
  return mask;
}

}  // namespace ldmtune::adapt
