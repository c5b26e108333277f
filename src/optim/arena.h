#pragma once
// All trainable parameters of a trial are views into one flat fp32 buffer, their gradients into another.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "store/tensor_map.h"

namespace ldmtune::optim {

/// What an adapter asks for.
struct ParameterSpec {
  std::string name;  ///< the trace's name: "768.k.linear.0.weight"
  std::vector<std::int64_t> shape;
  std::string group;  ///< parameter group ("hypernetwork"): learning rate and weight decay
};

/// Parameters start at multiples of this many elements (64 bytes: kernels change bits with alignment).
constexpr std::int64_t kArenaAlignment = 16;

/// Where a parameter lies.
struct ArenaEntry {
  ParameterSpec spec;
  std::int64_t offset = 0;  ///< elements; a multiple of kArenaAlignment
  std::int64_t elements = 0;
};

class Arena {
 public:
  /// Lays the parameters out in the given order; both buffers start as zeros. Size is rounded up to 16 elements.
  explicit Arena(std::vector<ParameterSpec> specs, at::Device device = at::kCPU);

  std::int64_t size() const { return parameters_.numel(); }
  const std::vector<ArenaEntry>& entries() const { return entries_; }
  /// Flat f32 (size()).
  const at::Tensor& parameters() const { return parameters_; }
  const at::Tensor& gradients() const { return gradients_; }
  /// Leaf tensors that require gradients and whose .grad() is a view of gradients(). Errors: Error for an unknown name.
  const at::Tensor& parameter(const std::string& name) const;
  /// Views into the flat buffers by name.
  store::TensorMap parameter_views() const;
  store::TensorMap gradient_views() const;
  store::TensorMap views_of(const at::Tensor& flat) const;
  /// Makes a tensor that a module holds the parameter of this name: its values move into the flat buffer, its memory
  /// becomes a view of it, and gradients reach it where it is used. Errors: Error for an unknown name or another shape.
  void adopt(const std::string& name, const at::Tensor& tensor);
  /// For a tensor of a narrower type that a module computes with: it becomes a rounded copy of the parameter of this
  /// name. Backward adds its gradients, as it comes to them, to the parameter's in fp32 and keeps none beside. Errors:
  /// as adopt.
  void adopt_copy(const std::string& name, const at::Tensor& tensor);
  /// Rounds all copies anew; call it when parameters changed.
  void refresh_copies();
  /// Points gradients at another flat buffer (a fresh leaf of the canonical tree); backward accumulates into it.
  void use_gradients(at::Tensor flat);

  /// Elements that belong to parameters, without padding.
  std::int64_t trainable_elements() const;

 private:
  std::vector<ArenaEntry> entries_;
  at::Tensor parameters_, gradients_;
  store::TensorMap leaves_;
  store::TensorMap copies_;  ///< in a narrower type, by the name of what they are copies of
};

}  // namespace ldmtune::optim
