#pragma once
#include <ATen/ATen.h>

#include <string>
#include <vector>

namespace ldmtune::adapt {

/// x (any shape) -> the same shape.
using Activation = at::Tensor (*)(const at::Tensor& x);

/// A1111's activation names: linear (the identity), swish (Hardswish), and every elementwise torch.nn activation
/// without weights by its lower-case name (relu, leakyrelu, elu, tanh, sigmoid, gelu, silu, mish, softsign, hardtanh,
/// ...), with torch.nn's default arguments. rrelu has its evaluation slope in training too. Not here, though A1111's
/// table lists them: prelu (has a weight that A1111 never initializes), softmax, softmin, logsoftmax, softmax2d, glu,
/// threshold and multiheadattention (not elementwise, or impossible without arguments). In alphabetical order.
const std::vector<std::string>& activation_names();
/// Errors: InputError that lists the names; `where` names the option or file.
Activation find_activation(const std::string& name, const std::string& where = "activation");
at::Tensor activate(const std::string& name, const at::Tensor& x);

}  // namespace ldmtune::adapt
