#pragma once
#include <ATen/ATen.h>

#include <map>
#include <string>

namespace ldmtune::store {

/// Named tensors in the order of their names.
using TensorMap = std::map<std::string, at::Tensor>;

}  // namespace ldmtune::store
