#include "model/recompute.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace ldmtune::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldBlock : torch::CustomClassHolder {
  explicit HeldBlock(Block held) : block(std::move(held)) {}
  Block block;
};

at::Tensor fresh_leaf(const at::Tensor& saved, bool needs_gradient) {
  return saved.detach().requires_grad_(needs_gradient);
}

/// Autograd runs `forward` without recording it.
struct Recompute : torch::autograd::Function<Recompute> {
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<HeldBlock>& held,
                            const at::Tensor& input, const at::Tensor& condition) {
    context->saved_data["block"] = c10::IValue::make_capsule(held);
    context->saved_data["input"] = input.requires_grad();
    context->saved_data["condition"] = condition.requires_grad();
    context->save_for_backward({input, condition});
    return held->block(input, condition);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto capsule = context->saved_data["block"].toCapsule();
    const Block& block = static_cast<const HeldBlock*>(capsule.get())->block;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor input = fresh_leaf(saved[0], context->saved_data["input"].toBool());
    const at::Tensor condition = fresh_leaf(saved[1], context->saved_data["condition"].toBool());
    at::Tensor output;
    {
      const at::AutoGradMode recording(true);
      output = block(input, condition);
    }
    // Gradients of the block's own parameters go where they always go; those of its inputs are handed on.
    output.backward(gradients[0]);
    return {at::Tensor(), input.grad(), condition.grad()};
  }
};

}  // namespace

at::Tensor recompute_in_backward(Block block, const at::Tensor& input, const at::Tensor& condition) {
  if (!at::GradMode::is_enabled() || (!input.requires_grad() && !condition.requires_grad())) {
    return block(input, condition);
  }
  return Recompute::apply(c10::make_intrusive<HeldBlock>(std::move(block)), input, condition);
}

}  // namespace ldmtune::model
