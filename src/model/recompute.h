#pragma once
// Gradient checkpointing: a block's activations are not kept for its backward but computed again then. A third more
// computing for a fraction of the memory.

#include <ATen/ATen.h>

#include <functional>

namespace ldmtune::model {

/// A block of the network: (input, condition) -> output. It is called again in backward, so whatever it refers to must
/// live until then, and it must give the same output.
using Block = std::function<at::Tensor(const at::Tensor& input, const at::Tensor& condition)>;

/// block(input, condition), keeping only these two for backward. Where neither needs a gradient, or grad mode is off,
/// the block runs as it stands.
at::Tensor recompute_in_backward(Block block, const at::Tensor& input, const at::Tensor& condition);

}  // namespace ldmtune::model
