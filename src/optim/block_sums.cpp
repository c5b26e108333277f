#include "optim/block_sums.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

constexpr std::int64_t kBlocksOfPiece = 256;  // bounds f64 copies to 128 MiB

// Four sums in registers: additions need not wait for each other, and their order is fixed.
double product_sum(const float* a, const float* b, std::int64_t count) {
  double sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
  const auto product = [a, b](std::int64_t i) { return double{a[i]} * double{b[i]}; };
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    sum0 += product(i);
    sum1 += product(i + 1);
    sum2 += product(i + 2);
    sum3 += product(i + 3);
  }
  for (; i < count; ++i) sum0 += product(i);
  return (sum0 + sum1) + (sum2 + sum3);
}

at::Tensor padded_f64(const at::Tensor& flat, std::int64_t elements) {
  at::Tensor padded = at::zeros({elements}, flat.options().dtype(at::kDouble));
  padded.narrow(0, 0, flat.numel()).copy_(flat);
  return padded;
}

at::Tensor sums_by_halving(const at::Tensor& a, const at::Tensor& b) {
  const std::int64_t blocks = (a.numel() + kNormBlock - 1) / kNormBlock;
  at::Tensor sums = padded_f64(a, blocks * kNormBlock);
  sums.mul_(a.is_same(b) ? sums.clone() : padded_f64(b, blocks * kNormBlock));
  sums = sums.view({blocks, kNormBlock});
  for (std::int64_t width = kNormBlock / 2; width >= 1; width /= 2) {
    sums = sums.narrow(1, 0, width) + sums.narrow(1, width, width);
  }
  return sums.view({blocks}).cpu();
}

void check_flat(const at::Tensor& a, const at::Tensor& b) {
  for (const at::Tensor& each : {a, b}) {
    if (each.dim() != 1 || each.scalar_type() != at::kFloat || !each.is_contiguous() || each.numel() != a.numel()) {
      fail("block sums need flat contiguous f32 tensors of one length, found ", each.toString(), " of ", each.numel());
    }
  }
}

}  // namespace

std::vector<double> block_products(const at::Tensor& a, const at::Tensor& b) {
  check_flat(a, b);
  if (!a.is_cpu()) return block_products_by_halving(a, b);
  std::vector<double> sums;
  sums.reserve(static_cast<std::size_t>((a.numel() + kNormBlock - 1) / kNormBlock));
  const float *left = a.const_data_ptr<float>(), *right = b.const_data_ptr<float>();
  for (std::int64_t block = 0; block < a.numel(); block += kNormBlock) {
    sums.push_back(product_sum(left + block, right + block, std::min(kNormBlock, a.numel() - block)));
  }
  return sums;
}

std::vector<double> block_products_by_halving(const at::Tensor& a, const at::Tensor& b) {
  const at::NoGradGuard no_grad;
  std::vector<double> sums;
  for (std::int64_t first = 0; first < a.numel(); first += kBlocksOfPiece * kNormBlock) {
    const std::int64_t length = std::min(kBlocksOfPiece * kNormBlock, a.numel() - first);
    const at::Tensor left = a.narrow(0, first, length);
    const at::Tensor piece = sums_by_halving(left, a.is_same(b) ? left : b.narrow(0, first, length));
    const double* values = piece.const_data_ptr<double>();
    sums.insert(sums.end(), values, values + piece.numel());
  }
  return sums;
}

void for_each_piece(std::int64_t elements, const at::Device& device,
                    const std::function<void(std::int64_t, std::int64_t)>& work) {
  const std::int64_t longest = device.is_cpu() ? kNormBlock : kBlocksOfPiece * kNormBlock;
  for (std::int64_t first = 0; first < elements; first += longest) work(first, std::min(longest, elements - first));
}

}  // namespace ldmtune::optim
