#include "adapt/activations.h"

#include <map>

#include "core/error.h"

namespace ldmtune::adapt {

namespace {

constexpr double kLeakySlope = 0.01;
/// Mean of RReLU's default bounds 1/8 and 1/3.
constexpr double kRReluSlope = (1.0 / 8 + 1.0 / 3) / 2;

const std::map<std::string, Activation>& table() {
  using T = const at::Tensor&;
  static const std::map<std::string, Activation> activations{
      {"celu", [](T x) { return at::celu(x); }},
      {"elu", [](T x) { return at::elu(x); }},
      {"gelu", [](T x) { return at::gelu(x); }},
      {"hardshrink", [](T x) { return at::hardshrink(x); }},
      {"hardsigmoid", [](T x) { return at::hardsigmoid(x); }},
      {"hardswish", [](T x) { return at::hardswish(x); }},
      {"hardtanh", [](T x) { return at::hardtanh(x); }},
      {"leakyrelu", [](T x) { return at::leaky_relu(x, kLeakySlope); }},
      {"linear", [](T x) { return x; }},
      {"logsigmoid", [](T x) { return at::log_sigmoid(x); }},
      {"mish", [](T x) { return at::mish(x); }},
      {"relu", [](T x) { return at::relu(x); }},
      {"relu6", [](T x) { return at::hardtanh(x, 0.0, 6.0); }},
      {"rrelu", [](T x) { return at::leaky_relu(x, kRReluSlope); }},
      {"selu", [](T x) { return at::selu(x); }},
      {"sigmoid", [](T x) { return at::sigmoid(x); }},
      {"silu", [](T x) { return at::silu(x); }},
      {"softplus", [](T x) { return at::softplus(x); }},
      {"softshrink", [](T x) { return at::softshrink(x); }},
      {"softsign", [](T x) { return x / (x.abs() + 1.0); }},
      {"swish", [](T x) { return at::hardswish(x); }},
      {"tanh", [](T x) { return at::tanh(x); }},
      {"tanhshrink", [](T x) { return x - at::tanh(x); }},
  };
  return activations;
}

}  // namespace

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> keys;
    for (const auto& [name, function] : table()) keys.push_back(name);
    return keys;
  }();
  return names;
}

Activation find_activation(const std::string& name, const std::string& where) {
  const auto found = table().find(name);
  if (found != table().end()) return found->second;
  std::string list;
  for (const std::string& known : activation_names()) list += (list.empty() ? "" : ", ") + known;
  fail_input(where, ": unknown activation '", name, "'; expected one of ", list);
}

at::Tensor activate(const std::string& name, const at::Tensor& x) { return find_activation(name)(x); }

}  // namespace ldmtune::adapt
