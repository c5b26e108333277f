#include "optim/clipping.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

// Eight independent sums let the compiler use vector registers without reordering anything by itself.
double square_sum(const float* values, std::int64_t count) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[static_cast<std::size_t>(lane)] += value * value;
    }
  }
  for (; i < count; ++i) lanes[static_cast<std::size_t>(i % kLanes)] += double{values[i]} * double{values[i]};
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// On an accelerator: halving by element-wise additions, whose bits do not depend on how many blocks are summed at once
// (a library reduction's launch shape does).
at::Tensor square_sums_by_halving(const at::Tensor& flat) {
  const std::int64_t blocks = (flat.numel() + kNormBlock - 1) / kNormBlock;
  at::Tensor sums = at::zeros({blocks * kNormBlock}, flat.options().dtype(at::kDouble));
  sums.narrow(0, 0, flat.numel()).copy_(flat);
  sums = sums.square_().view({blocks, kNormBlock});
  for (std::int64_t width = kNormBlock / 2; width >= 1; width /= 2) {
    sums = sums.narrow(1, 0, width) + sums.narrow(1, width, width);
  }
  return sums.view({blocks}).cpu();
}

}  // namespace

std::vector<double> block_square_sums(const at::Tensor& gradient, std::int64_t begin, std::int64_t end) {
  if (gradient.dim() != 1 || gradient.scalar_type() != at::kFloat || !gradient.is_contiguous()) {
    fail("a gradient norm needs a flat contiguous f32 gradient, found ", gradient.toString());
  }
  if (begin < 0 || begin % kNormBlock != 0 || begin > end || end > gradient.numel()) {
    fail("gradient range [", begin, ", ", end, ") must begin at a multiple of ", kNormBlock, " and lie within ",
         gradient.numel(), " elements");
  }
  std::vector<double> sums;
  sums.reserve(static_cast<std::size_t>((end - begin + kNormBlock - 1) / kNormBlock));
  if (gradient.is_cpu()) {
    const float* values = gradient.const_data_ptr<float>();
    for (std::int64_t block = begin; block < end; block += kNormBlock) {
      sums.push_back(square_sum(values + block, std::min(kNormBlock, end - block)));
    }
    return sums;
  }
  const at::NoGradGuard no_grad;
  constexpr std::int64_t kChunk = 256 * kNormBlock;  // bounds the f64 copy to 128 MiB
  for (std::int64_t first = begin; first < end; first += kChunk) {
    const at::Tensor chunk = square_sums_by_halving(gradient.narrow(0, first, std::min(kChunk, end - first)));
    const double* values = chunk.const_data_ptr<double>();
    sums.insert(sums.end(), values, values + chunk.numel());
  }
  return sums;
}

double clip_coefficient(double norm, double max_norm) {
  if (std::isnan(norm)) return norm;
  if (max_norm == 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace ldmtune::optim
