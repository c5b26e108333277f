#pragma once
// Sums over a slice that do not depend on how the arena is sliced: by blocks, which a fixed tree adds up.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace ldmtune::optim {

/// Elements of a block: slices of ranks begin at multiples of it.
constexpr std::int64_t kNormBlock = 64 * 1024;

/// What a sum over all ranks makes of this slice's block sums: concatenated in order of slices and added up by
/// comm::canonical_sum. A collective.
using GlobalSum = std::function<double(const std::vector<double>& block_sums)>;

/// sum(a[i] b[i]) in f64 of each 64 Ki-element block; a, b flat contiguous f32 of one length whose first element lies
/// on a block boundary of the arena. A whole block's sum does not depend on how many blocks are asked for.
std::vector<double> block_products(const at::Tensor& a, const at::Tensor& b);

/// What block_products does on an accelerator, on any device: halving by element-wise additions, whose bits do not
/// depend on how many blocks are summed at once (a library reduction's launch shape does).
std::vector<double> block_products_by_halving(const at::Tensor& a, const at::Tensor& b);

/// Calls work(first, length) for pieces of [0, elements) that begin on block boundaries and are long enough for the
/// device's kernels, short enough for a CPU's cache.
void for_each_piece(std::int64_t elements, const at::Device& device,
                    const std::function<void(std::int64_t first, std::int64_t length)>& work);

}  // namespace ldmtune::optim
