#include "optim/clipping.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace ldmtune::optim {
std::vector<double> block_square_sums(const at::Tensor& gradient, std::int64_t begin, std::int64_t end) {
  if (gradient.dim() != 1 || gradient.scalar_type() != at::kFloat || !gradient.is_contiguous()) {
    fail("a gradient norm needs a flat contiguous f32 gradient, found ", gradient.toString());
  }
  if (begin == end) return {};  // a rank without blocks: its slice may begin where the last block is cut
  if (begin < 0 || begin % kNormBlock != 0 || begin > end || end > gradient.numel()) {
    fail("gradient range [", begin, ", ", end, ") must begin at a multiple of ", kNormBlock, " and lie within ",
         gradient.numel(), " elements");
  }
  const at::Tensor slice = gradient.narrow(0, begin, end - begin);
  return block_products(slice, slice);
}

std::vector<double> block_square_sums_by_halving(const at::Tensor& gradient) {
  return block_products_by_halving(gradient, gradient);
}

double clip_coefficient(double norm, double max_norm) {
  if (std::isnan(norm)) return norm;
  if (max_norm == 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace ldmtune::optim
