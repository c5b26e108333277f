#pragma once
// Operations of a UNet that keep less for backward than LibTorch's own: what is cheap to compute again is not kept, and
// a convolution keeps its input only where its kernel trains. Values and gradients have the same bits.

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

namespace ldmtune::model {

/// input (B, in, h, w), weight (out, in, k, k), bias (out) -> (B, out, h', w'), as at::conv2d. LibTorch keeps the input
/// for the kernel's gradient even where the kernel needs none.
at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       std::int64_t stride, std::int64_t padding);

/// silu(group_norm(input)), input (B, channels, ...): keeps the input and the groups' means and deviations, not the
/// normalized values.
at::Tensor group_norm_silu(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                           std::int64_t groups, double eps);

/// a * gelu(b) of input (..., 2 n) = (a, b) -> (..., n), Shazeer's GEGLU (arXiv 2002.05202): keeps the input only.
at::Tensor gated_gelu(const at::Tensor& input);

}  // namespace ldmtune::model
