#pragma once
// AdamW (Loshchilov & Hutter, arXiv 1711.05101) on this rank's slice of an arena: one fused pass over each group's
// ranges.

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optim/arena.h"
#include "optim/group_ranges.h"
#include "optim/optimizer.h"

namespace ldmtune::optim {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01;
};

class AdamW final : public Optimizer {
 public:
  /// Owns the moments of elements [begin, end) of the arena; both start as zeros.
  /// Errors: Error if the slice is not within the arena or does not begin and end at multiples of kArenaAlignment.
  AdamW(const Arena& arena, AdamWOptions options, std::int64_t begin, std::int64_t end);

  /// Updates parameters()[begin, end) from gradients()[begin, end); `learning_rate` by group; step counts from 1.
  /// Bitwise the same however the arena is sliced (at::_fused_adamw_ on whole vectors).
  /// Errors: Error for a group without a learning rate, a step below 1, an arena of another size.
  void step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t step) override;

  /// f32 (end - begin).
  at::Tensor& moment1() { return moment1_; }
  at::Tensor& moment2() { return moment2_; }
  std::map<std::string, at::Tensor> state() const override { return {{"moment1", moment1_}, {"moment2", moment2_}}; }
  std::int64_t begin() const override { return begin_; }
  std::int64_t end() const override { return end_; }

 private:
  AdamWOptions options_;
  std::int64_t begin_, end_, arena_size_;
  std::vector<GroupRange> ranges_;
  at::Tensor moment1_, moment2_;
};

}  // namespace ldmtune::optim
