#pragma once
// Prodigy (Mishchenko & Defazio, arXiv 2306.06101) on this rank's slice of an arena: Adam with a step size d that is
// estimated from how far the parameters have come.

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>

#include "optim/block_sums.h"
#include "optim/optimizer.h"

namespace ldmtune::optim {

struct ProdigyOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double beta3 = 0;  ///< 0: sqrt(beta2)
  double epsilon = 1e-8, weight_decay = 0.01;
  double d0 = 1e-6;   ///< the first estimate
  double d_coef = 1;  ///< factor on the estimate
  bool use_bias_correction = true, safeguard_warmup = true;
};

/// The published algorithm with decoupled weight decay. The estimate needs two sums over all parameters,
/// <g, p0 - p> and |s|_1, which go through `global_sum`: d has the same bits on any number of ranks.
class Prodigy final : public Optimizer {
 public:
  /// Owns the state of elements [begin, end) of the arena. Errors: as AdamW's; Error if a slice that is not empty does
  /// not begin on a block boundary.
  Prodigy(const Arena& arena, ProdigyOptions options, std::int64_t begin, std::int64_t end, GlobalSum global_sum);

  /// A collective. A learning rate of 0 changes nothing. Errors: Error unless all groups have one learning rate.
  void step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t step) override;
  /// "moment1", "moment2", "s" and "initial", the parameters p0 at the first update.
  std::map<std::string, at::Tensor> state() const override;
  /// "d", "d_numerator", "updates".
  std::map<std::string, double> scalars() const override;
  void set_scalars(const std::map<std::string, double>& values) override;
  std::int64_t begin() const override { return begin_; }
  std::int64_t end() const override { return end_; }
  double d() const { return d_; }

 private:
  /// Moments and s of this slice; returns the two global sums.
  struct Sums {
    double distance = 0;  ///< <g, p0 - p>
    double s = 0;         ///< |s|_1
  };
  Sums accumulate(const Arena& arena, double s_factor);
  void move(const Arena& arena, double rate);

  ProdigyOptions options_;
  std::int64_t begin_, end_, arena_size_;
  GlobalSum global_sum_;
  at::Tensor moment1_, moment2_, s_, initial_;
  double d_, d_numerator_ = 0;
  std::int64_t updates_ = 0;
};

}  // namespace ldmtune::optim
