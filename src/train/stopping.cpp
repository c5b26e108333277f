#include "train/stopping.h"

#include <cmath>

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::train {
namespace {

double variance(const std::vector<StoppingRule::Value>& values, std::size_t first) {
  const auto count = static_cast<double>(values.size() - first);
  double sum = 0, squares = 0;
  for (std::size_t i = first; i < values.size(); ++i) sum += values[i].loss;
  for (std::size_t i = first; i < values.size(); ++i) squares += std::pow(values[i].loss - sum / count, 2);
  return squares / count;
}

}  // namespace

StoppingRule::StoppingRule(const StopConfig& config)
    : is_on_(config.rule == "dvar"),
      every_(config.every),
      window_(config.every > 0 ? static_cast<std::size_t>(config.window / config.every) : 0),
      threshold_(config.threshold) {
  if (config.rule != "none" && config.rule != "dvar") {
    fail_input("option stop.rule: expected none or dvar, found '", config.rule, "'");
  }
  if (config.every < 1) fail_input("option stop.every: expected 1 or more updates, found ", config.every);
  if (config.window < 2 * config.every) {
    fail_input("option stop.window: expected at least two times stop.every (", config.every, "), found ",
               config.window);
  }
  if (!(config.threshold > 0 && config.threshold < 1)) {
    fail_input("option stop.threshold: expected a number between 0 and 1, found ", format_number(config.threshold));
  }
  if (config.images < 1) fail_input("option stop.images: expected 1 or more, found ", config.images);
}

std::optional<double> StoppingRule::ratio() const {
  if (!is_on_ || values_.size() < window_) return std::nullopt;
  const double of_all = variance(values_, 0);
  if (!(of_all > 0)) return std::nullopt;
  return variance(values_, values_.size() - window_) / of_all;
}

bool StoppingRule::says_stop() const {
  const std::optional<double> now = ratio();
  return now && *now < threshold_;
}

}  // namespace ldmtune::train
