#pragma once
// Exponential moving average of the parameters, on this rank's slice of an arena.

#include <ATen/ATen.h>

#include <cstdint>

#include "optim/arena.h"

namespace ldmtune::optim {

/// Decay of the average at update n = 1, 2 ...: min(decay, n / (9 + n)), and 0 at the first: what diffusers' EMAModel
/// does, so that the random start is soon forgotten.
double ema_decay_at(std::int64_t update, double decay);

class Ema {
 public:
  /// The average of elements [begin, end) begins as the parameters are. Errors: as AdamW's.
  Ema(const Arena& arena, double decay, std::int64_t begin, std::int64_t end);

  /// average -= (1 - decay) (average - parameters), after update `update` = 1, 2 ...
  void update(const Arena& arena, std::int64_t update);

  /// f32 (end - begin); a resume writes it.
  const at::Tensor& average() const { return average_; }
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }

 private:
  double decay_;
  std::int64_t begin_, end_;
  at::Tensor average_;
};

}  // namespace ldmtune::optim
