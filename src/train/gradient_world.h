#pragma once
#include <ATen/ATen.h>

#include <memory>

#include "comm/communicator.h"

namespace ldmtune::train {

/// A communicator that sends gradients between GPUs (NCCL), where it was built in and every rank has a GPU of its own;
/// else null, and gradients pass through the host. `device` must be current. A collective over `comm`.
std::unique_ptr<comm::Communicator> gradient_world(const at::Device& device, comm::Communicator& comm);

}  // namespace ldmtune::train
