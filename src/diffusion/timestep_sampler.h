#pragma once
// Which timestep a draw of the sample stream trains at: a pure function of (seed, dataset, draw).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "diffusion/noise_schedule.h"

namespace ldmtune::diffusion {

/// Shape of the distribution over [min_timestep, max_timestep), by the quantile of a uniform u:
/// - uniform: min + floor(u * (max - min));
/// - logit_normal (Esser et al., arXiv 2403.03206): min + floor(s * (max - min)), s = sigmoid(mean + std * ndtri(u));
/// - log_normal (Karras et al., arXiv 2206.00364): the timestep whose ln sigma is nearest to mean + std * ndtri(u),
///   with sigma = sqrt((1 - a_t) / a_t).
enum class TimestepDistribution { uniform, logit_normal, log_normal };
/// Errors: InputError naming the option and the names that are known.
TimestepDistribution parse_timestep_sampling(const std::string& text);

/// Random numbers: purpose timestep at the draw. u is integer(0, 2^53) / 2^53, and half of 2^-53 above it for
/// the normal shapes; uniform without strata takes integer(0, max - min) itself. With strata, an update's B draws
/// (draw / B is the update) fall into B equal parts of [0, 1), each part once:
/// u = (part + integer(0, 2^53) / 2^53) / B, part = permutation(seed, timestep_stratum, dataset, update)[draw mod B].
class TimestepSampler {
 public:
  /// `global_batch_size` is B. Errors: InputError naming the option: a range that is empty or leaves the schedule ...
  TimestepSampler(const NoiseConfig& config, const NoiseSchedule& schedule, std::int64_t global_batch_size);

  /// Timesteps of these draws.
  std::vector<std::int64_t> sample(std::uint64_t seed, std::uint32_t dataset,
                                   std::span<const std::uint64_t> draws) const;

  std::int64_t min_timestep() const { return min_; }
  std::int64_t max_timestep() const { return max_; }

 private:
  std::int64_t quantile(double u) const;
  std::int64_t nearest_log_sigma(double value) const;

  TimestepDistribution distribution_;
  double mean_, std_;
  std::int64_t min_, max_;         ///< [min, max)
  std::uint64_t strata_;           ///< 0: none
  std::vector<double> log_sigma_;  ///< of each timestep, rising; for log_normal only
};

}  // namespace ldmtune::diffusion
