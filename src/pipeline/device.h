#pragma once
// Which device a rank computes on.

#include <ATen/ATen.h>

#include <string>

#include "comm/communicator.h"

namespace ldmtune::pipeline {

/// name: "cpu"; "cuda": the GPU of this rank's number on its host (the only one where each rank sees but one); "auto":
/// cuda where there is one, else cpu. Errors: InputError for another name, or cuda without a GPU or a build for it.
at::Device choose_device(const std::string& name, const comm::Communicator& comm);

}  // namespace ldmtune::pipeline
