#pragma once
// Gradient checkpointing: a block's activations are not kept for its backward but computed again then: the forward's
// computing once more for a fraction of the memory.

#include <ATen/ATen.h>

#include <functional>
#include <vector>

namespace ldmtune::model {

/// A block of the network: inputs -> output. It is called again in backward, so whatever it refers to must live until
/// then, and it must give the same output.
using Block = std::function<at::Tensor(const std::vector<at::Tensor>& inputs)>;

/// block(inputs), keeping only the inputs for backward. Where nothing that needs a gradient goes into the output, or
/// grad mode is off, nothing is kept.
///
/// A tensor that the block uses several times may stand among the inputs as often: its gradients are then added one by
/// one, in the order of the inputs, to what its other users gave. With those uses first whose gradients come first
/// without recomputing, the sum has the same bits.
at::Tensor recompute_in_backward(Block block, const std::vector<at::Tensor>& inputs);

}  // namespace ldmtune::model
