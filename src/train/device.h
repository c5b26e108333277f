#pragma once
#include <ATen/ATen.h>

#include <string>

#include "comm/communicator.h"

namespace ldmtune::train {

/// The device of train.device = auto | cpu | cuda for this rank: with CUDA the GPU of its local rank (modulo the
/// visible ones, so a rank that sees only its own takes that). Errors: InputError listing the names, or if there is no
/// GPU.
at::Device training_device(const std::string& option, const comm::Communicator& comm);

}  // namespace ldmtune::train
