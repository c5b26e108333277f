#pragma once
// Gradient norm and clipping, independent of the number of ranks.

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "optim/block_sums.h"

namespace ldmtune::optim {

/// Sum of squares (f64) of each 64 Ki-element block of gradient[begin, end); begin is a block boundary, or the range is
/// empty. Concatenated over ranks in order of slices and summed by comm::canonical_sum it gives the squared norm,
/// whatever the number of ranks. `gradient` is flat f32. A whole block's sum does not depend on the range it was asked
/// in.
std::vector<double> block_square_sums(const at::Tensor& gradient, std::int64_t begin, std::int64_t end);

/// What block_square_sums does on an accelerator, for all of `gradient` and on any device: halving by element-wise
/// additions, whose bits do not depend on how many blocks are summed at once (a library reduction's launch shape does).
std::vector<double> block_square_sums_by_halving(const at::Tensor& gradient);

/// min(1, max_norm / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_; 1 where max_norm is 0 (off); NaN where norm is
/// NaN.
double clip_coefficient(double norm, double max_norm);

}  // namespace ldmtune::optim
