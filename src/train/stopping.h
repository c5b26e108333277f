#pragma once
// Stopping early: DVAR (Voronov et al., "Is This Loss Informative?", arXiv 2302.04841).

#include <cstdint>
#include <optional>
#include <vector>

#include "core/config.h"

namespace ldmtune::train {

/// Watches the loss of a fixed batch at fixed noise and timesteps, which moves only where training changes something:
/// training may stop when the variance of its last values falls below `threshold` times the variance of all of them.
class StoppingRule {
 public:
  struct Value {
    std::int64_t step = 0;
    double loss = 0;
    bool operator==(const Value&) const = default;
  };

  /// Errors: InputError naming an option of [stop].
  explicit StoppingRule(const StopConfig& config);

  /// Whether the loss is to be measured after this many updates (0: before the first).
  bool is_due(std::int64_t step) const { return is_on_ && step % every_ == 0; }
  void add(const Value& value) { values_.push_back(value); }

  /// Variance of the values of the last `window` updates over that of all; none while there are fewer, or where the
  /// loss never moved. Variances are population variances.
  std::optional<double> ratio() const;
  bool says_stop() const;

  /// All values so far, in order of step: what a checkpoint keeps.
  const std::vector<Value>& values() const { return values_; }
  void restore(std::vector<Value> values) { values_ = std::move(values); }

 private:
  bool is_on_;
  std::int64_t every_;
  std::size_t window_;  ///< in values
  double threshold_;
  std::vector<Value> values_;
};

}  // namespace ldmtune::train
