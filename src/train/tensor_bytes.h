#pragma once
// Named tensors as bytes, to be sent between ranks of one job.

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

namespace ldmtune::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

std::string pack_tensors(const NamedTensors& tensors);
NamedTensors unpack_tensors(const std::string& bytes);

}  // namespace ldmtune::train
