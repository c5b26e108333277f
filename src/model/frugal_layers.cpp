#include "model/frugal_layers.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <tuple>
#include <vector>

namespace ldmtune::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// A convolution whose kernel and bias are frozen.
struct FrozenConvolution : Function<FrozenConvolution> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, std::int64_t stride, std::int64_t padding) {
    context->save_for_backward({weight});
    context->saved_data["shape"] = input.sizes();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    return at::conv2d(input, weight, bias, stride, padding);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor weight = context->get_saved_variables().front();
    const std::int64_t stride = context->saved_data["stride"].toInt();
    const std::int64_t padding = context->saved_data["padding"].toInt();
    // The gradient of the input asks for the input's shape, not for its numbers.
    const at::Tensor shape = at::empty(context->saved_data["shape"].toIntVector(), gradients[0].options());
    const auto result = at::convolution_backward(gradients[0], shape, weight, at::OptionalIntArrayRef(),
                                                 {stride, stride}, {padding, padding}, {1, 1}, /*transposed=*/false,
                                                 {0, 0}, /*groups=*/1, {true, false, false});
    return {std::get<0>(result), {}, {}, {}, {}};
  }
};

struct GroupNormSilu : Function<GroupNormSilu> {
  static std::tuple<at::Tensor, at::Tensor, at::Tensor> normalized(const at::Tensor& input, const at::Tensor& weight,
                                                                   const at::Tensor& bias, std::int64_t groups,
                                                                   double eps) {
    const std::int64_t batch = input.size(0), channels = input.size(1);
    return at::native_group_norm(input, weight, bias, batch, channels, input.numel() / (batch * channels), groups, eps);
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const at::Tensor& bias, std::int64_t groups, double eps) {
    const auto [output, mean, deviation] = normalized(input, weight, bias, groups, eps);
    context->save_for_backward({input, weight, bias, mean, deviation});
    context->saved_data["groups"] = groups;
    context->saved_data["eps"] = eps;
    return at::silu(output);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1], &bias = saved[2];
    const std::int64_t groups = context->saved_data["groups"].toInt();
    const double eps = context->saved_data["eps"].toDouble();
    const at::Tensor of_normalized =
        at::silu_backward(gradients[0].contiguous(), std::get<0>(normalized(input, weight, bias, groups, eps)));
    const std::int64_t batch = input.size(0), channels = input.size(1);
    const std::array<bool, 3> needed{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->needs_input_grad(2)};
    const auto [of_input, of_weight, of_bias] =
        at::native_group_norm_backward(of_normalized, input, saved[3], saved[4], weight, batch, channels,
                                       input.numel() / (batch * channels), groups, needed);
    return {of_input, of_weight, of_bias, {}, {}};
  }
};

struct GatedGelu : Function<GatedGelu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input) {
    context->save_for_backward({input});
    const std::vector<at::Tensor> halves = input.chunk(2, -1);
    return halves[0] * at::gelu(halves[1]);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const std::vector<at::Tensor> halves = context->get_saved_variables().front().chunk(2, -1);
    const at::Tensor of_value = gradients[0] * at::gelu(halves[1]);
    const at::Tensor of_gate = at::gelu_backward(gradients[0] * halves[0], halves[1]);
    return {at::cat({of_value, of_gate}, -1)};
  }
};

bool is_recorded(const at::Tensor& tensor) { return at::GradMode::is_enabled() && tensor.requires_grad(); }

}  // namespace

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       std::int64_t stride, std::int64_t padding) {
  const bool trains = weight.requires_grad() || (bias && bias->requires_grad());
  if (trains || !is_recorded(input)) return at::conv2d(input, weight, bias, stride, padding);
  return FrozenConvolution::apply(input, weight, bias, stride, padding);
}

at::Tensor group_norm_silu(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                           std::int64_t groups, double eps) {
  if (!is_recorded(input) && !is_recorded(weight) && !is_recorded(bias)) {
    return at::silu(at::group_norm(input, groups, weight, bias, eps));
  }
  return GroupNormSilu::apply(input.contiguous(), weight, bias, groups, eps);
}

at::Tensor gated_gelu(const at::Tensor& input) {
  if (is_recorded(input)) return GatedGelu::apply(input);
  const std::vector<at::Tensor> halves = input.chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

}  // namespace ldmtune::model
