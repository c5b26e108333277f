#pragma once
#include <ATen/ATen.h>

#include <string>
#include <vector>

namespace ldmtune::adapt {

/// A1111's activation names: linear, relu, leakyrelu, elu, swish (Hardswish), tanh, sigmoid and every elementwise torch.nn activation by
/// its lower-case name (gelu, silu, mish, softsign, hardtanh, ...), with torch.nn's default arguments.
const std::vector<std::string>& activation_names();
/// Errors: InputError that lists the names.
at::Tensor activate(const std::string& name, const at::Tensor& x);

}  // namespace ldmtune::adapt
