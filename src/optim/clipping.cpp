#include "optim/clipping.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

// Four sums in registers: additions need not wait for each other, and their order is fixed.
double square_sum(const float* values, std::int64_t count) {
  double sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
  const auto square = [values](std::int64_t i) { return double{values[i]} * double{values[i]}; };
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    sum0 += square(i);
    sum1 += square(i + 1);
    sum2 += square(i + 2);
    sum3 += square(i + 3);
  }
  for (; i < count; ++i) sum0 += square(i);
  return (sum0 + sum1) + (sum2 + sum3);
}

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
  if (begin == end) return {};  // a rank without blocks: its slice may begin where the last block is cut
  if (begin < 0 || begin % kNormBlock != 0 || begin > end || end > gradient.numel()) {
    fail("gradient range [", begin, ", ", end, ") must begin at a multiple of ", kNormBlock, " and lie within ",
         gradient.numel(), " elements");
  }
  if (!gradient.is_cpu()) return block_square_sums_by_halving(gradient.narrow(0, begin, end - begin));
  std::vector<double> sums;
  sums.reserve(static_cast<std::size_t>((end - begin + kNormBlock - 1) / kNormBlock));
  const float* values = gradient.const_data_ptr<float>();
  for (std::int64_t block = begin; block < end; block += kNormBlock) {
    sums.push_back(square_sum(values + block, std::min(kNormBlock, end - block)));
  }
  return sums;
}

std::vector<double> block_square_sums_by_halving(const at::Tensor& gradient) {
  const at::NoGradGuard no_grad;
  constexpr std::int64_t kChunk = 256 * kNormBlock;  // bounds the f64 copy to 128 MiB
  std::vector<double> sums;
  for (std::int64_t first = 0; first < gradient.numel(); first += kChunk) {
    const std::int64_t length = std::min(kChunk, gradient.numel() - first);
    const at::Tensor chunk = square_sums_by_halving(gradient.narrow(0, first, length));
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
