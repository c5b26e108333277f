#pragma once
// How modules get their weights: by the checkpoint's own key names, each used exactly once.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/tensor_map.h"

namespace ldmtune::model {

/// Hands out the tensors of one component's checkpoint.
class Weights {
 public:
  /// `source` names the file or folder for errors; tensors are converted to `dtype` on `device` when taken.
  Weights(store::TensorMap tensors, std::string source, at::ScalarType dtype = at::kFloat,
          at::Device device = at::kCPU);

  /// Weights made on demand instead of read, for a model without a checkpoint (benchmarks, tests): `make(key, shape)`.
  using Maker = std::function<at::Tensor(const std::string& key, at::IntArrayRef shape)>;
  Weights(Maker make, std::string source, at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

  /// The tensor under `key`, contiguous and 64-byte aligned (alignment changes bits, see FACTS.md), without a gradient
  /// history. Errors: InputError if it is missing or its shape is not `shape` (both are named).
  at::Tensor take(const std::string& key, at::IntArrayRef shape);
  /// Whether `key` is there and nobody took it yet.
  bool contains(const std::string& key) const;
  /// Errors: InputError that lists keys nobody took.
  void expect_all_taken() const;

  /// Everything handed out so far, under its key: the very tensors the modules hold.
  const store::TensorMap& taken() const { return taken_; }
  const std::string& source() const { return source_; }
  at::Device device() const { return device_; }

 private:
  Maker make_;
  store::TensorMap tensors_;  ///< not taken yet
  store::TensorMap taken_;
  std::string source_;
  at::ScalarType dtype_;
  at::Device device_;
};

}  // namespace ldmtune::model
