#include "diffusion/sampler.h"

#include <cmath>

#include "core/error.h"
#include "diffusion/sampler_parts.h"

namespace ldmtune::diffusion {
namespace {

/// Song et al., arXiv 2010.02502, with eta 0.
class DdimSampler : public Sampler {
 public:
  DdimSampler(const NoiseSchedule& schedule, std::int64_t count)
      : timesteps_(spaced_timesteps(schedule, schedule.timestep_spacing(), count)) {
    const std::int64_t stride = schedule.num_train_timesteps() / count;
    const double final_alpha = schedule.set_alpha_to_one() ? 1.0 : alpha_at(schedule, 0);
    for (double& timestep : timesteps_) {
      timestep = std::nearbyint(timestep);
      const auto t = static_cast<std::int64_t>(timestep);
      const double alpha = alpha_at(schedule, t);
      const double previous = t >= stride ? alpha_at(schedule, t - stride) : final_alpha;
      if (alpha == 0 && schedule.prediction_type() == PredictionType::epsilon) {
        fail_input(
            "scheduler_config.json: rescale_betas_zero_snr with prediction_type epsilon has no DDIM step at timestep ",
            t, "; expected prediction_type v_prediction or timestep_spacing leading");
      }
      coefficients_.push_back(step_coefficients(schedule.prediction_type(), alpha, previous));
    }
  }

  const std::vector<double>& timesteps() const override { return timesteps_; }
  double init_noise_sigma() const override { return 1; }
  at::Tensor scale_model_input(const at::Tensor& sample, std::size_t) const override { return sample; }
  at::Tensor step(const at::Tensor& model_output, const at::Tensor& sample, std::size_t step) override {
    return apply(coefficients_.at(step), model_output, sample);
  }

 private:
  /// x' = sqrt(a') x0 + sqrt(1 - a') n, with the clean x0 and the noise n that the output stands for.
  static StepCoefficients step_coefficients(PredictionType type, double alpha, double previous) {
    const double signal = std::sqrt(alpha), sigma = std::sqrt(1 - alpha);
    const double next_signal = std::sqrt(previous), next_sigma = std::sqrt(1 - previous);
    if (type == PredictionType::epsilon) {
      return {next_signal / signal, next_sigma - next_signal * sigma / signal};
    }
    return {next_signal * signal + next_sigma * sigma, next_sigma * signal - next_signal * sigma};
  }

  std::vector<double> timesteps_;
  std::vector<StepCoefficients> coefficients_;
};

}  // namespace

const std::vector<std::string>& sampler_names() {
  static const std::vector<std::string> names{"ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras"};
  return names;
}

std::unique_ptr<Sampler> make_sampler(const std::string& name, const NoiseSchedule& schedule,
                                      std::int64_t num_inference_steps) {
  if (name == "ddim") return std::make_unique<DdimSampler>(schedule, num_inference_steps);
  if (name == "euler") return make_euler(schedule, num_inference_steps, /*ancestral=*/false);
  if (name == "euler_ancestral") return make_euler(schedule, num_inference_steps, /*ancestral=*/true);
  if (name == "dpmpp_2m") return make_dpmpp_2m(schedule, num_inference_steps, /*karras=*/false);
  if (name == "dpmpp_2m_karras") return make_dpmpp_2m(schedule, num_inference_steps, /*karras=*/true);
  std::string known;
  for (const std::string& sampler : sampler_names()) known += (known.empty() ? "" : ", ") + sampler;
  fail_input("sampler: expected one of ", known, ", found '", name, "'");
}

}  // namespace ldmtune::diffusion
