#pragma once
// What the training step asks of an optimizer: update this rank's slice of an arena, and show the state that a
// checkpoint keeps.

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>

#include "optim/arena.h"

namespace ldmtune::optim {

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates parameters()[begin, end) from gradients()[begin, end); `learning_rate` by group; step counts from 1. The
  /// bits do not depend on how the arena is sliced.
  virtual void step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t step) = 0;

  /// State of this rank's slice by name ("moment1"), f32 (end - begin) each, sharing memory with the optimizer: a
  /// checkpoint reads it, a resume writes it.
  virtual std::map<std::string, at::Tensor> state() const = 0;

  /// Numbers that are equal on all ranks and follow from the updates so far ("d"); state.json keeps them.
  virtual std::map<std::string, double> scalars() const { return {}; }
  /// Errors: Error for a name that is missing.
  virtual void set_scalars(const std::map<std::string, double>& /*values*/) {}

  virtual std::int64_t begin() const = 0;
  virtual std::int64_t end() const = 0;
};

}  // namespace ldmtune::optim
