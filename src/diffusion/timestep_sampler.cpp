#include "diffusion/timestep_sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::diffusion {
namespace {

constexpr std::uint64_t kSteps = std::uint64_t{1} << 53;

/// In [0, 1), every multiple of 2^-53 alike.
double uniform(const RandomStream& stream) {
  return static_cast<double>(stream.integer(0, kSteps)) / static_cast<double>(kSteps);
}

/// Quantile of the standard normal distribution.
double normal_quantile(double u) { return at::special_ndtri(at::scalar_tensor(u, at::kDouble)).item<double>(); }

}  // namespace

TimestepDistribution parse_timestep_sampling(const std::string& text) {
  if (text == "uniform") return TimestepDistribution::uniform;
  if (text == "logit_normal") return TimestepDistribution::logit_normal;
  if (text == "log_normal") return TimestepDistribution::log_normal;
  fail_input("option noise.timestep_sampling: expected uniform, logit_normal or log_normal, found '", text, "'");
}

TimestepSampler::TimestepSampler(const NoiseConfig& config, const NoiseSchedule& schedule,
                                 std::int64_t global_batch_size)
    : distribution_(parse_timestep_sampling(config.timestep_sampling)),
      mean_(config.timestep_mean),
      std_(config.timestep_std),
      min_(config.min_timestep),
      max_(config.max_timestep == 0 ? schedule.num_train_timesteps() : config.max_timestep),
      strata_(config.stratified ? static_cast<std::uint64_t>(global_batch_size) : 0) {
  if (min_ < 0 || max_ > schedule.num_train_timesteps() || min_ >= max_) {
    fail_input("options noise.min_timestep, noise.max_timestep: expected 0 <= min < max <= ",
               schedule.num_train_timesteps(), " (the base's num_train_timesteps), found ", min_, " and ", max_);
  }
  if (!std::isfinite(mean_) || !std::isfinite(std_) || std_ <= 0) {
    fail_input("options noise.timestep_mean, noise.timestep_std: expected a number and one above 0, found ", mean_,
               " and ", std_);
  }
  if (distribution_ != TimestepDistribution::log_normal) return;
  const at::Tensor alpha = schedule.alphas_cumprod().to(at::kDouble);
  const at::Tensor table = (((1 - alpha) / alpha).log() / 2).contiguous();
  log_sigma_.assign(table.const_data_ptr<double>(), table.const_data_ptr<double>() + table.numel());
}

std::int64_t TimestepSampler::nearest_log_sigma(double value) const {
  const auto begin = log_sigma_.begin() + min_, end = log_sigma_.begin() + max_;
  auto above = std::lower_bound(begin, end, value);
  if (above == end) --above;
  const bool below_is_nearer = above != begin && value - *(above - 1) <= *above - value;
  return above - log_sigma_.begin() - (below_is_nearer ? 1 : 0);
}

std::int64_t TimestepSampler::quantile(double u) const {
  if (distribution_ != TimestepDistribution::uniform) {
    const double normal = mean_ + std_ * normal_quantile(u + 0.5 / static_cast<double>(kSteps));
    if (distribution_ == TimestepDistribution::log_normal) return nearest_log_sigma(normal);
    u = 1 / (1 + std::exp(-normal));
  }
  const auto offset = static_cast<std::int64_t>(u * static_cast<double>(max_ - min_));
  return std::min(min_ + offset, max_ - 1);
}

std::vector<std::int64_t> TimestepSampler::sample(std::uint64_t seed, std::uint32_t dataset,
                                                  std::span<const std::uint64_t> draws) const {
  std::vector<std::int64_t> timesteps;
  std::vector<std::uint32_t> parts;
  std::uint64_t update_of_parts = 0;
  for (const std::uint64_t draw : draws) {
    const RandomStream stream{seed, Purpose::timestep, dataset, draw};
    if (strata_ > 0) {
      const std::uint64_t update = draw / strata_;
      if (parts.empty() || update != update_of_parts) {
        parts = permutation({seed, Purpose::timestep_stratum, dataset, update}, static_cast<std::uint32_t>(strata_));
        update_of_parts = update;
      }
      const double part = parts[draw % strata_];
      timesteps.push_back(quantile((part + uniform(stream)) / static_cast<double>(strata_)));
    } else if (distribution_ == TimestepDistribution::uniform) {
      timesteps.push_back(min_ + static_cast<std::int64_t>(stream.integer(0, static_cast<std::uint64_t>(max_ - min_))));
    } else {
      timesteps.push_back(quantile(uniform(stream)));
    }
  }
  return timesteps;
}

}  // namespace ldmtune::diffusion
