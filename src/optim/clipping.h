#pragma once
// Gradient norm and clipping, independent of the number of ranks.

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace ldmtune::optim {

/// Sum of squares (f64) of each 64 Ki-element block of gradient[begin, end); begin is a block boundary. Concatenated over ranks in
/// order of slices and summed by comm::canonical_sum it gives the squared norm, whatever the number of ranks.
std::vector<double> block_square_sums(const at::Tensor& gradient, std::int64_t begin, std::int64_t end);

/// min(1, max_norm / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_; 1 where max_norm is 0 (off).
double clip_coefficient(double norm, double max_norm);

}  // namespace ldmtune::optim
