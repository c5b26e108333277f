#pragma once
// Lion (Chen et al., arXiv 2302.06675) on this rank's slice of an arena.

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optim/group_ranges.h"
#include "optim/optimizer.h"

namespace ldmtune::optim {

struct LionOptions {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0.01;
};

/// p <- p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) g);  m <- beta2 m + (1 - beta2) g.
class Lion final : public Optimizer {
 public:
  /// Owns the momentum of elements [begin, end) of the arena, zero at first. Errors: as AdamW's.
  Lion(const Arena& arena, LionOptions options, std::int64_t begin, std::int64_t end);

  /// Errors: Error for a group without a learning rate, an arena of another size.
  void step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t step) override;
  std::map<std::string, at::Tensor> state() const override { return {{"moment1", moment1_}}; }
  std::int64_t begin() const override { return begin_; }
  std::int64_t end() const override { return end_; }

 private:
  LionOptions options_;
  std::int64_t begin_, end_, arena_size_;
  std::vector<GroupRange> ranges_;
  at::Tensor moment1_;
};

}  // namespace ldmtune::optim
