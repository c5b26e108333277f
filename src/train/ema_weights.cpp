#include "train/ema_weights.h"

#include <ATen/core/grad_mode.h>

#include "train/collectives.h"

namespace ldmtune::train {

at::Tensor whole_average(const Trial& trial, comm::Communicator& comm) {
  if (!trial.ema) return {};
  at::Tensor whole = at::zeros_like(trial.arena->parameters());
  whole.slice(0, trial.ema->begin(), trial.ema->end()).copy_(trial.ema->average());
  all_gather(comm, whole);
  return whole;
}

EmaWeights::EmaWeights(const Trial& trial, const at::Tensor& average) {
  if (!average.defined()) return;
  const at::NoGradGuard no_grad;
  parameters_ = trial.arena->parameters();
  trained_ = parameters_.clone();
  parameters_.copy_(average);
}

EmaWeights::~EmaWeights() {
  if (!parameters_.defined()) return;
  const at::NoGradGuard no_grad;
  parameters_.copy_(trained_);
}

}  // namespace ldmtune::train
