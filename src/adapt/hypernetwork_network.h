#pragma once
// One network of a hypernetwork with its parameters looked up: what runs in every attention layer.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "adapt/activations.h"
#include "adapt/hypernetwork.h"

namespace ldmtune::adapt {

class HypernetworkNetwork {
 public:
  /// `role` is "k" or "v". The tensors are the arena's leaves.
  HypernetworkNetwork(const HypernetworkSpec& spec, const optim::Arena& arena, std::int64_t width,
                      const std::string& role);

  /// x (B, T, width) of any floating type -> x + linear(x) * strength, (B, T, width), of x's type, computed in fp32.
  at::Tensor forward(const at::Tensor& x, const ForwardContext& context, std::uint32_t layer) const;

 private:
  struct Stage {
    at::Tensor weight;  ///< (out, in)
    at::Tensor bias;    ///< (out)
    Activation activation = nullptr;
    at::Tensor norm_weight, norm_bias;  ///< (out), undefined without layer norm
    double dropout = 0.0;
    std::string dropout_name;
  };
  std::vector<Stage> stages_;
};

}  // namespace ldmtune::adapt
