#include "diffusion/noise_schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace ldmtune::diffusion {
namespace {

using nlohmann::json;

const json kStableDiffusion{{"_class_name", "PNDMScheduler"},
                            {"beta_schedule", "scaled_linear"},
                            {"beta_start", 0.00085},
                            {"beta_end", 0.012},
                            {"steps_offset", 1},
                            {"set_alpha_to_one", false},
                            {"trained_betas", nullptr},
                            {"skip_prk_steps", true}};

double alpha(const NoiseSchedule& schedule, std::int64_t t) { return schedule.alphas_cumprod()[t].item<double>(); }

TEST(NoiseSchedule, DefaultsAreTheLinearDdpmSchedule) {
  const NoiseSchedule schedule(json::object());
  EXPECT_EQ(schedule.num_train_timesteps(), 1000);
  EXPECT_EQ(schedule.prediction_type(), PredictionType::epsilon);
  EXPECT_EQ(schedule.steps_offset(), 0);
  EXPECT_TRUE(schedule.set_alpha_to_one());
  EXPECT_EQ(schedule.timestep_spacing(), "leading");
  EXPECT_FALSE(schedule.has_timestep_spacing());
  double product = 1;
  for (int t = 0; t < 1000; ++t) product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999);
  EXPECT_NEAR(alpha(schedule, 999) / product, 1, 1e-4);
  EXPECT_NEAR(alpha(schedule, 0), 1 - 1e-4, 1e-7);
}

TEST(NoiseSchedule, StableDiffusionsSchedule) {
  const NoiseSchedule schedule(kStableDiffusion);
  double product = 1;
  for (int t = 0; t < 1000; ++t) {
    const double root = std::sqrt(0.00085) + (std::sqrt(0.012) - std::sqrt(0.00085)) * t / 999;
    product *= 1 - root * root;
    EXPECT_NEAR(alpha(schedule, t) / product, 1, 1e-4) << t;
  }
  EXPECT_EQ(schedule.steps_offset(), 1);
  EXPECT_FALSE(schedule.set_alpha_to_one());
}

TEST(NoiseSchedule, GivenBetasAndZeroTerminalSnr) {
  const NoiseSchedule given({{"trained_betas", {0.1, 0.2, 0.5}}, {"num_train_timesteps", 3}});
  EXPECT_NEAR(alpha(given, 2), 0.9 * 0.8 * 0.5, 1e-6);
  json config = kStableDiffusion;
  config["rescale_betas_zero_snr"] = true;
  const NoiseSchedule zero(config), plain(kStableDiffusion);
  EXPECT_EQ(alpha(zero, 999), 0);
  EXPECT_TRUE(zero.zero_terminal_snr());
  EXPECT_NEAR(alpha(zero, 0), alpha(plain, 0), 1e-5) << "the first timestep stays";
  const double root_500 = std::sqrt(alpha(plain, 500)), first = std::sqrt(alpha(plain, 0)),
               last = std::sqrt(alpha(plain, 999));
  EXPECT_NEAR(std::sqrt(alpha(zero, 500)), (root_500 - last) * first / (first - last), 1e-4);
}

TEST(NoiseSchedule, NoisyLatentsAndTargetsByTimestep) {
  const at::Tensor timestep = at::tensor({0, 250, 999}, at::kLong);
  const at::Tensor latents = at::arange(48, at::kFloat).view({3, 4, 2, 2}).sin();
  const at::Tensor noise = at::arange(48, at::kFloat).view({3, 4, 2, 2}).cos();
  json config = kStableDiffusion;
  const NoiseSchedule epsilon(config);
  config["prediction_type"] = "v_prediction";
  const NoiseSchedule v(config);
  EXPECT_TRUE(at::equal(epsilon.target(latents, noise, timestep), noise));
  const at::Tensor noisy = v.add_noise(latents, noise, timestep), target = v.target(latents, noise, timestep);
  for (std::int64_t i = 0; i < 3; ++i) {
    const double a = alpha(v, timestep[i].item<std::int64_t>()), signal = std::sqrt(a), sigma = std::sqrt(1 - a);
    EXPECT_TRUE(at::allclose(noisy[i], signal * latents[i] + sigma * noise[i], 1e-5, 1e-6));
    // Rotating (x_t, v) back gives the clean latents and the noise.
    EXPECT_TRUE(at::allclose(signal * noisy[i] - sigma * target[i], latents[i], 1e-5, 1e-6));
    EXPECT_TRUE(at::allclose(sigma * noisy[i] + signal * target[i], noise[i], 1e-5, 1e-6));
  }
}

TEST(NoiseSchedule, LossPerSample) {
  at::Tensor prediction = at::zeros({2, 4, 3, 3}), target = at::zeros({2, 4, 3, 3});
  prediction[0].fill_(2);
  prediction[1][0][0][0] = 6;
  const at::Tensor loss = per_sample_mse(prediction.to(at::kBFloat16), target);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_EQ(loss.sizes(), at::IntArrayRef({2}));
  EXPECT_FLOAT_EQ(loss[0].item<float>(), 4);
  EXPECT_FLOAT_EQ(loss[1].item<float>(), 1);
}

TEST(NoiseSchedule, WhatIsNotKnownIsNamed) {
  const std::vector<std::pair<json, std::string>> cases{
      {{{"prediction_type", "sample"}}, "\"prediction_type\": expected epsilon or v_prediction, found \"sample\""},
      {{{"beta_schedule", "sigmoid"}}, "\"beta_schedule\""},
      {{{"timestep_spacing", "even"}}, "\"timestep_spacing\""},
      {{{"beta_start", "small"}}, "\"beta_start\": expected a number, found \"small\""},
      {{{"beta_end", 1.5}}, "\"beta_end\": expected 0 to 1"},
      {{{"beta_start", -0.1}}, "\"beta_start\""},
      {{{"num_train_timesteps", 0}}, "\"num_train_timesteps\""},
      {{{"num_train_timesteps", 1e3}}, "\"num_train_timesteps\": expected a whole number"},
      {{{"num_train_timesteps", 1e15}}, "\"num_train_timesteps\""},
      {{{"trained_betas", {0.1}}}, "\"trained_betas\": expected num_train_timesteps = 1000 numbers, found 1"},
      {{{"trained_betas", {"a", "b"}}, {"num_train_timesteps", 2}}, "\"trained_betas\""},
      {{{"trained_betas", 0.1}}, "\"trained_betas\": expected a list"},
      {{{"trained_betas", {0.1, 7}}, {"num_train_timesteps", 2}}, "betas between 0 and 1"},
      {{{"rescale_betas_zero_snr", 1}}, "\"rescale_betas_zero_snr\": expected true or false"},
      {json::array(), "expected a JSON object"},
  };
  for (const auto& [config, piece] : cases) {
    try {
      NoiseSchedule schedule(config);
      ADD_FAILURE() << config.dump() << " was accepted";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(piece), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace ldmtune::diffusion
