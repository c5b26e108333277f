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
  arena_ = trial.arena.get();
  trained_ = arena_->parameters().clone();
  set(average);
}

EmaWeights::~EmaWeights() {
  if (arena_) set(trained_);
}

void EmaWeights::set(const at::Tensor& values) const {
  const at::NoGradGuard no_grad;
  arena_->parameters().copy_(values);
  arena_->refresh_copies();
}

}  // namespace ldmtune::train
