#include "model/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

namespace ldmtune::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldBlock : torch::CustomClassHolder {
  explicit HeldBlock(Block held) : block(std::move(held)) {}
  Block block;
  at::Tensor output;  ///< where it is known before
};

at::Tensor fresh_leaf(const at::Tensor& saved) { return saved.detach().requires_grad_(saved.requires_grad()); }

/// Autograd runs `forward` without recording it. `anchor` is an empty tensor that makes the output need a gradient
/// where no input does.
struct Recompute : torch::autograd::Function<Recompute> {
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<HeldBlock>& held,
                            const at::Tensor& /*anchor*/, at::TensorList inputs) {
    context->saved_data["block"] = c10::IValue::make_capsule(held);
    context->save_for_backward(inputs.vec());
    return held->output.defined() ? std::exchange(held->output, {}) : held->block(inputs.vec());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto capsule = context->saved_data["block"].toCapsule();
    const Block& block = static_cast<const HeldBlock*>(capsule.get())->block;
    std::vector<at::Tensor> inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) inputs.push_back(fresh_leaf(saved));
    at::Tensor output;
    {
      const at::AutoGradMode recording(true);
      output = block(inputs);
    }
    // Gradients of the block's own parameters go where they always go; those of its inputs are handed on.
    output.backward(gradients[0]);
    variable_list results{at::Tensor(), at::Tensor()};
    for (const at::Tensor& input : inputs) results.push_back(input.grad());
    return results;
  }
};

}  // namespace

at::Tensor recompute_in_backward(Block block, const std::vector<at::Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return block(inputs);
  const auto held = c10::make_intrusive<HeldBlock>(std::move(block));
  const bool needs_gradient =
      std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& input) { return input.requires_grad(); });
  if (!needs_gradient) {
    // What trains may lie inside: that shows only when the block runs. Its graph is dropped here.
    held->output = held->block(inputs);
    if (!held->output.requires_grad()) return held->output;
    held->output = held->output.variable_data();
  }
  const at::Tensor anchor = at::empty({0}).requires_grad_(!needs_gradient);
  return Recompute::apply(held, anchor, at::TensorList(inputs));
}

}  // namespace ldmtune::model
