#include "diffusion/noise_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace ldmtune::diffusion {
namespace {

using nlohmann::json;

// A key's value, or `absent` where it is missing or null.
template <class T>
T value_of(const json& config, const char* key, T absent, const char* expected, bool (json::*is_kind)() const) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return absent;
  if (!((*found).*is_kind)()) {
    fail_input("scheduler_config.json: key \"", key, "\": expected ", expected, ", found ", found->dump());
  }
  return found->get<T>();
}

double number(const json& config, const char* key, double absent) {
  return value_of(config, key, absent, "a number", &json::is_number);
}

std::string text(const json& config, const char* key, const char* absent) {
  return value_of<std::string>(config, key, absent, "a string", &json::is_string);
}

[[noreturn]] void fail_value(const char* key, const char* expected, const std::string& found) {
  fail_input("scheduler_config.json: key \"", key, "\": expected ", expected, ", found \"", found, "\"");
}

std::int64_t timestep_count(const json& config) {
  const auto count =
      value_of<std::int64_t>(config, "num_train_timesteps", 1000, "a whole number", &json::is_number_integer);
  if (count < 1 || count > 1'000'000) {
    fail_input("scheduler_config.json: key \"num_train_timesteps\": expected 1 to 1000000, found ", count);
  }
  return count;
}

// f32 (T), each in (0, 1).
at::Tensor given_betas(const json& list, std::int64_t count) {
  std::vector<float> betas;
  for (const json& beta : list) {
    if (!beta.is_number()) break;
    betas.push_back(beta.get<float>());
  }
  if (betas.size() != list.size() || static_cast<std::int64_t>(betas.size()) != count) {
    fail_input("scheduler_config.json: key \"trained_betas\": expected num_train_timesteps = ", count,
               " numbers, found ", betas.size(), " in a list of ", list.size());
  }
  return at::tensor(betas, at::kFloat);
}

// Nichol & Dhariwal, arXiv 2102.09672: alpha_bar(s) = cos^2((s + 0.008) / 1.008 pi / 2).
at::Tensor cosine_betas(std::int64_t count) {
  const auto alpha_bar = [count](std::int64_t t) {
    const double time = static_cast<double>(t) / static_cast<double>(count);
    const double cosine = std::cos((time + 0.008) / 1.008 * std::numbers::pi / 2);
    return cosine * cosine;
  };
  std::vector<float> betas;
  for (std::int64_t t = 0; t < count; ++t) {
    betas.push_back(static_cast<float>(std::min(1 - alpha_bar(t + 1) / alpha_bar(t), 0.999)));
  }
  return at::tensor(betas, at::kFloat);
}

at::Tensor make_betas(const json& config) {
  const std::int64_t count = timestep_count(config);
  const auto given = config.find("trained_betas");
  if (given != config.end() && given->is_array()) return given_betas(*given, count);
  if (given != config.end() && !given->is_null()) fail_value("trained_betas", "a list of numbers", given->dump());
  const double start = number(config, "beta_start", 1e-4);
  const double end = number(config, "beta_end", 0.02);
  if (!(start >= 0 && start < 1 && end >= 0 && end < 1)) {
    fail_input("scheduler_config.json: keys \"beta_start\", \"beta_end\": expected 0 to 1, found ", start, ", ", end);
  }
  const std::string shape = text(config, "beta_schedule", "linear");
  if (shape == "linear") return at::linspace(start, end, count, at::kFloat);
  if (shape == "scaled_linear") return at::linspace(std::sqrt(start), std::sqrt(end), count, at::kFloat).square();
  if (shape == "squaredcos_cap_v2") return cosine_betas(count);
  fail_value("beta_schedule", "linear, scaled_linear or squaredcos_cap_v2", shape);
}

// Lin et al., arXiv 2305.08891, algorithm 1: sqrt(alpha_bar) is shifted and scaled so that it ends at zero.
at::Tensor with_zero_terminal_snr(const at::Tensor& betas) {
  const at::Tensor root = at::cumprod(1 - betas, 0).sqrt();
  const at::Tensor first = root.select(0, 0), last = root.select(0, -1);
  const at::Tensor alpha_bar = ((root - last) * (first / (first - last))).square();
  const std::int64_t count = alpha_bar.size(0);
  const at::Tensor ratios = alpha_bar.narrow(0, 1, count - 1) / alpha_bar.narrow(0, 0, count - 1);
  return 1 - at::cat({alpha_bar.narrow(0, 0, 1), ratios});
}

PredictionType parse_prediction_type(const json& config) {
  const std::string name = text(config, "prediction_type", "epsilon");
  if (name == "epsilon") return PredictionType::epsilon;
  if (name == "v_prediction") return PredictionType::v_prediction;
  fail_value("prediction_type", "epsilon or v_prediction", name);
}

// table[timestep] as (B, 1, 1, 1), on the device and in the precision of `like`.
at::Tensor gather(const at::Tensor& table, const at::Tensor& timestep, const at::Tensor& like) {
  const at::Tensor values = table.to(like.device()).index_select(0, timestep.to(like.device()));
  std::vector<std::int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
  shape[0] = values.size(0);
  return values.to(like.scalar_type()).view(shape);
}

}  // namespace

NoiseSchedule::NoiseSchedule(const json& config) {
  if (!config.is_object()) fail_input("scheduler_config.json: expected a JSON object, found ", config.dump());
  prediction_type_ = parse_prediction_type(config);
  at::Tensor betas = make_betas(config);
  if (value_of(config, "rescale_betas_zero_snr", false, "true or false", &json::is_boolean)) {
    betas = with_zero_terminal_snr(betas);
    zero_terminal_snr_ = true;
  }
  alphas_cumprod_ = at::cumprod(1 - betas, 0);
  signal_ = alphas_cumprod_.sqrt();
  sigma_ = (1 - alphas_cumprod_).sqrt();
  if (!at::isfinite(signal_).all().item<bool>() || !at::isfinite(sigma_).all().item<bool>()) {
    fail_input("scheduler_config.json: expected betas between 0 and 1, found some that give no finite noise schedule");
  }
  steps_offset_ = value_of<std::int64_t>(config, "steps_offset", 0, "a whole number", &json::is_number_integer);
  set_alpha_to_one_ = value_of(config, "set_alpha_to_one", true, "true or false", &json::is_boolean);
  has_timestep_spacing_ = config.contains("timestep_spacing") && !config["timestep_spacing"].is_null();
  timestep_spacing_ = text(config, "timestep_spacing", "leading");
  constexpr std::array<std::string_view, 3> kSpacings{"leading", "linspace", "trailing"};
  if (std::find(kSpacings.begin(), kSpacings.end(), timestep_spacing_) == kSpacings.end()) {
    fail_value("timestep_spacing", "leading, linspace or trailing", timestep_spacing_);
  }
}

at::Tensor NoiseSchedule::add_noise(const at::Tensor& latents, const at::Tensor& noise,
                                    const at::Tensor& timestep) const {
  return gather(signal_, timestep, latents) * latents + gather(sigma_, timestep, latents) * noise;
}

at::Tensor NoiseSchedule::target(const at::Tensor& latents, const at::Tensor& noise, const at::Tensor& timestep) const {
  if (prediction_type_ == PredictionType::epsilon) return noise;
  return gather(signal_, timestep, latents) * noise - gather(sigma_, timestep, latents) * latents;
}

at::Tensor per_sample_mse(const at::Tensor& prediction, const at::Tensor& target) {
  return at::mse_loss(prediction.to(at::kFloat), target.to(at::kFloat), at::Reduction::None).flatten(1).mean(1);
}

}  // namespace ldmtune::diffusion
