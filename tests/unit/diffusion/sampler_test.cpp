#include "diffusion/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace ldmtune::diffusion {
namespace {

using nlohmann::json;

json config(const std::string& spacing = "", const std::string& prediction = "epsilon") {
  json value{{"beta_schedule", "scaled_linear"},
             {"beta_start", 0.00085},
             {"beta_end", 0.012},
             {"prediction_type", prediction}};
  if (!spacing.empty()) value["timestep_spacing"] = spacing;
  return value;
}

std::vector<double> timesteps(const std::string& name, const json& value, std::int64_t count) {
  return make_sampler(name, NoiseSchedule(value), count)->timesteps();
}

TEST(Sampler, TimestepsBySpacing) {
  EXPECT_EQ(timesteps("ddim", config("leading"), 4), (std::vector<double>{750, 500, 250, 0}));
  EXPECT_EQ(timesteps("ddim", config("trailing"), 4), (std::vector<double>{999, 749, 499, 249}));
  EXPECT_EQ(timesteps("ddim", config("linspace"), 4), (std::vector<double>{999, 666, 333, 0}));
  EXPECT_EQ(timesteps("ddim", config("linspace"), 1), (std::vector<double>{0}));
  EXPECT_EQ(timesteps("euler", config("linspace"), 3), (std::vector<double>{999, 499.5, 0}));
  json offset = config("leading");
  offset["steps_offset"] = 1;
  EXPECT_EQ(timesteps("ddim", offset, 4), (std::vector<double>{751, 501, 251, 1}));
}

TEST(Sampler, TimestepsDescendWithinRangeForEveryCount) {
  for (const char* name : {"ddim", "euler", "euler_ancestral"}) {
    for (const char* spacing : {"leading", "linspace", "trailing"}) {
      for (const std::int64_t count : {1, 2, 3, 7, 20, 27, 49, 50, 333, 999, 1000}) {
        const auto found = timesteps(name, config(spacing), count);
        ASSERT_EQ(static_cast<std::int64_t>(found.size()), count);
        EXPECT_TRUE(std::is_sorted(found.rbegin(), found.rend())) << name << spacing << count;
        EXPECT_GE(found.back(), 0);
        EXPECT_LE(found.front(), 999);
      }
    }
  }
}

TEST(Sampler, EachHasItsOwnDefaultSpacing) {
  EXPECT_EQ(timesteps("ddim", config(), 4), timesteps("ddim", config("leading"), 4));
  EXPECT_EQ(timesteps("euler", config(), 4), timesteps("euler", config("linspace"), 4));
}

// A model that knows the clean latents and the noise leads there: sampling is then a rotation of known vectors. Not
// with linspace, whose DDIM steps (of T / n, as diffusers takes them) are not the distance between its timesteps.
TEST(Sampler, AnOracleLeadsToTheCleanLatents) {
  const at::Tensor clean = at::arange(64, at::kFloat).view({1, 4, 4, 4}).sin();
  const at::Tensor noise = at::arange(64, at::kFloat).view({1, 4, 4, 4}).cos();
  for (const char* prediction : {"epsilon", "v_prediction"}) {
    for (const char* spacing : {"leading", "trailing"}) {
      const NoiseSchedule schedule(config(spacing, prediction));
      const auto ddim = make_sampler("ddim", schedule, 10);
      const auto at_step = [&](std::size_t i) { return at::full({1}, ddim->timesteps()[i], at::kLong); };
      at::Tensor sample = schedule.add_noise(clean, noise, at_step(0));
      for (std::size_t i = 0; i < 10; ++i) {
        sample = ddim->step(schedule.target(clean, noise, at_step(i)), ddim->scale_model_input(sample, i), i);
      }
      EXPECT_TRUE(at::allclose(sample, clean, 1e-4, 1e-4)) << prediction << ' ' << spacing;
    }
  }
}

TEST(Sampler, EulersOracleLeadsToTheCleanLatents) {
  const at::Tensor clean = at::arange(64, at::kFloat).view({1, 4, 4, 4}).sin();
  const at::Tensor noise = at::arange(64, at::kFloat).view({1, 4, 4, 4}).cos();
  for (const char* prediction : {"epsilon", "v_prediction"}) {
    const NoiseSchedule schedule(config("trailing", prediction));
    const auto euler = make_sampler("euler", schedule, 10);
    at::Tensor sample = clean + euler->init_noise_sigma() * noise;
    for (std::size_t i = 0; i < 10; ++i) {
      const at::Tensor timestep = at::full({1}, euler->timesteps()[i], at::kLong);
      // What the model reads is the variance-preserving noisy latent of that timestep.
      EXPECT_TRUE(
          at::allclose(euler->scale_model_input(sample, i), schedule.add_noise(clean, noise, timestep), 1e-4, 1e-4));
      sample = euler->step(schedule.target(clean, noise, timestep), sample, i);
    }
    EXPECT_TRUE(at::allclose(sample, clean, 1e-4, 1e-4)) << prediction;
  }
}

TEST(Sampler, DpmsOracleLeadsToTheCleanLatents) {
  for (const std::string& name : {std::string("dpmpp_2m"), std::string("dpmpp_2m_karras")}) {
    for (const char* prediction : {"epsilon", "v_prediction"}) {
      const NoiseSchedule schedule(config("linspace", prediction));
      const auto sampler = make_sampler(name, schedule, 12);
      const at::Tensor clean = at::sin(at::arange(64, at::kFloat)).view({1, 1, 8, 8});
      const at::Tensor noise = at::cos(3 * at::arange(64, at::kFloat)).view({1, 1, 8, 8});
      at::Tensor sample = schedule.add_noise(clean, noise, at::full({1}, 999, at::kLong));
      for (std::size_t i = 0; i < 12; ++i) {
        const at::Tensor timestep = at::full({1}, static_cast<std::int64_t>(sampler->timesteps()[i]), at::kLong);
        const at::Tensor target = schedule.target(clean, noise, timestep);
        sample = sampler->step(target, sample, i);
      }
      // Karras' sigmas fall between whole timesteps, at which the oracle is asked.
      EXPECT_TRUE(at::allclose(sample, clean, 0, name == "dpmpp_2m" ? 1e-3 : 0.05)) << name << prediction;
    }
  }
}

TEST(Sampler, OnlyAncestralStepsAddNoiseAndTheLastAddsNone) {
  const NoiseSchedule schedule(config("linspace"));
  for (const std::string& name : sampler_names()) {
    const auto sampler = make_sampler(name, schedule, 5);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(sampler->noise_scale(i) > 0, name == "euler_ancestral" && i < 4) << name << i;
    }
  }
}

TEST(Sampler, StartsAtTheRightVariance) {
  const NoiseSchedule leading(config("leading")), trailing(config("trailing"));
  EXPECT_EQ(make_sampler("ddim", leading, 10)->init_noise_sigma(), 1);
  const double alpha = trailing.alphas_cumprod()[999].item<double>();
  EXPECT_NEAR(make_sampler("euler", trailing, 10)->init_noise_sigma(), std::sqrt((1 - alpha) / alpha), 1e-9);
  const double first = leading.alphas_cumprod()[900].item<double>();
  EXPECT_NEAR(make_sampler("euler", leading, 10)->init_noise_sigma(), std::sqrt(1 / first), 1e-9);
}

TEST(Sampler, LeavesItsInputsAlone) {
  const NoiseSchedule schedule(config());
  for (const char* name : {"ddim", "euler"}) {
    const auto sampler = make_sampler(name, schedule, 5);
    const at::Tensor sample = at::ones({1, 4, 2, 2}), output = at::full({1, 4, 2, 2}, 0.5f);
    sampler->step(output, sampler->scale_model_input(sample, 0), 0);
    EXPECT_TRUE(at::equal(sample, at::ones({1, 4, 2, 2})));
    EXPECT_TRUE(at::equal(output, at::full({1, 4, 2, 2}, 0.5f)));
  }
}

TEST(Sampler, MultistepSamplersSayThatStepsCameOutOfOrder) {
  const auto sampler = make_sampler("dpmpp_2m", NoiseSchedule(config()), 5);
  const at::Tensor sample = at::ones({1, 1, 2, 2});
  EXPECT_THROW(sampler->step(sample, sample, 2), Error);
}

TEST(Sampler, StepsThatDoNotMoveAreRefused) {
  EXPECT_THROW(make_sampler("dpmpp_2m", NoiseSchedule(config("leading")), 1000), InputError);
}

TEST(Sampler, BadRequestsAreNamed) {
  const NoiseSchedule schedule(config());
  EXPECT_THROW(make_sampler("heun", schedule, 10), InputError);
  EXPECT_THROW(make_sampler("ddim", schedule, 0), InputError);
  EXPECT_THROW(make_sampler("euler", schedule, 1001), InputError);
  json offset = config("leading");
  offset["steps_offset"] = 1;
  EXPECT_THROW(make_sampler("ddim", NoiseSchedule(offset), 1000), InputError) << "timestep 1000 does not exist";
  json zero = config("trailing");
  zero["rescale_betas_zero_snr"] = true;
  EXPECT_THROW(make_sampler("ddim", NoiseSchedule(zero), 10), InputError) << "epsilon says nothing where only noise is";
  zero["prediction_type"] = "v_prediction";
  EXPECT_NO_THROW(make_sampler("ddim", NoiseSchedule(zero), 10));
}

}  // namespace
}  // namespace ldmtune::diffusion
