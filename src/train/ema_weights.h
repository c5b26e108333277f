#pragma once
// The averaged weights in place of the trained ones while something is measured, pictured or exported.

#include <ATen/ATen.h>

#include "comm/communicator.h"
#include "train/trial.h"

namespace ldmtune::train {

/// The whole average, of which each rank holds its slice: flat f32 like the arena (a collective). Undefined where the
/// trial keeps none.
at::Tensor whole_average(const Trial& trial, comm::Communicator& comm);

/// From its construction to its destruction the trial's arena holds `average`; nothing changes if it is undefined.
class EmaWeights {
 public:
  EmaWeights(const Trial& trial, const at::Tensor& average);
  ~EmaWeights();
  EmaWeights(const EmaWeights&) = delete;
  EmaWeights& operator=(const EmaWeights&) = delete;

 private:
  void set(const at::Tensor& values) const;

  optim::Arena* arena_ = nullptr;
  at::Tensor trained_;
};

}  // namespace ldmtune::train
