#pragma once
// How modules get their weights: by the checkpoint's own key names, each used exactly once.

#include <ATen/ATen.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "store/tensor_map.h"

namespace ldmtune::model {

/// Hands out the tensors of one component's checkpoint.
class Weights {
 public:
  /// `source` names the file or folder for errors; tensors are converted to `dtype` on `device` when taken.
  Weights(store::TensorMap tensors, std::string source, at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

  /// The tensor under `key`. Errors: InputError if it is missing or its shape is not `shape` (both are named).
  at::Tensor take(const std::string& key, at::IntArrayRef shape);
  bool contains(const std::string& key) const;
  /// Errors: InputError that lists keys nobody took.
  void expect_all_taken() const;

 private:
  store::TensorMap tensors_;
  std::set<std::string> taken_;
  std::string source_;
  at::ScalarType dtype_;
  at::Device device_;
};

}  // namespace ldmtune::model
