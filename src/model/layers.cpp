#include "model/layers.h"

#include <map>

#include "core/error.h"
#include "model/frugal_layers.h"

namespace ldmtune::model {

Linear::Linear(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out, Bias bias, Stored stored)
    : name_(name),
      weight_(stored == Stored::matrix ? weights.take(name + ".weight", {out, in})
                                       : weights.take(name + ".weight", {out, in, 1, 1})) {
  if (bias == Bias::yes) bias_ = weights.take(name + ".bias", {out});
}

at::Tensor Linear::forward(const at::Tensor& input, ModelHooks* hooks) const {
  // The view is made anew each time: one kept from construction would not follow requires_grad_().
  const at::Tensor output = at::linear(input, weight_.dim() == 2 ? weight_ : weight_.flatten(1), bias_);
  return hooks ? hooks->linear(input, output, name_).to(output.scalar_type()) : output;
}

Conv2d::Conv2d(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out, Geometry geometry)
    : weight_(weights.take(name + ".weight", {out, in, geometry.kernel, geometry.kernel})),
      bias_(weights.take(name + ".bias", {out})),
      geometry_(geometry) {}

Conv2d::Conv2d(Weights& weights, const std::string& name, std::int64_t in, std::int64_t out)
    : Conv2d(weights, name, in, out, Geometry{}) {}

at::Tensor Conv2d::forward(const at::Tensor& input) const {
  return convolution(input, weight_, bias_, geometry_.stride, geometry_.padding);
}

GroupNorm::GroupNorm(Weights& weights, const std::string& name, std::int64_t groups, std::int64_t channels, double eps)
    : groups_(groups), eps_(eps) {
  if (channels % groups != 0) {
    fail_input(weights.source(), ": config.json asks for norm_num_groups = ", groups, " at \"", name, "\", which has ",
               channels, " channels; expected a divisor of it");
  }
  weight_ = weights.take(name + ".weight", {channels});
  bias_ = weights.take(name + ".bias", {channels});
}

at::Tensor GroupNorm::forward(const at::Tensor& input) const {
  return at::group_norm(input, groups_, weight_, bias_, eps_);
}

at::Tensor GroupNorm::forward(const at::Tensor& input, Activation activation) const {
  if (activation == Activation::silu) return group_norm_silu(input, weight_, bias_, groups_, eps_);
  return activate(forward(input), activation);
}

LayerNorm::LayerNorm(Weights& weights, const std::string& name, std::int64_t width, double eps)
    : weight_(weights.take(name + ".weight", {width})), bias_(weights.take(name + ".bias", {width})), eps_(eps) {}

at::Tensor LayerNorm::forward(const at::Tensor& input) const {
  return at::layer_norm(input, weight_.sizes(), weight_, bias_, eps_);
}

at::Tensor activate(const at::Tensor& input, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return at::silu(input);
    case Activation::gelu:
      return at::gelu(input);
    case Activation::quick_gelu:
      return input * at::sigmoid(input * 1.702);
    case Activation::mish:
      return at::mish(input);
    case Activation::relu:
      return at::relu(input);
  }
  fail("unknown activation ", static_cast<int>(activation));
}

Activation read_activation(ConfigReader& config, const std::string& key) {
  static const std::map<std::string, Activation> kNames{{"silu", Activation::silu},
                                                        {"swish", Activation::silu},
                                                        {"gelu", Activation::gelu},
                                                        {"mish", Activation::mish},
                                                        {"relu", Activation::relu}};
  const auto found = kNames.find(config.text(key, "silu"));
  if (found == kNames.end()) config.refuse(key, "silu, swish, gelu, mish or relu");
  return found->second;
}

}  // namespace ldmtune::model
