#include "diffusion/loss.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"
#include "diffusion/timestep_sampler.h"

namespace ldmtune::diffusion {
namespace {

at::Tensor numbers(std::uint64_t seed, at::IntArrayRef shape) {
  at::Tensor values = at::empty(shape, at::kFloat);
  RandomStream{seed, Purpose::noise, 0, 0}.fill_normal(
      {values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

const NoiseSchedule& schedule() {
  static const NoiseSchedule made(nlohmann::json::object());
  return made;
}

TEST(Loss, PlainLossHasTheBitsOfTheMeanSquaredError) {
  const at::Tensor prediction = numbers(1, {3, 4, 5, 7}), target = numbers(2, {3, 4, 5, 7});
  EXPECT_TRUE(at::equal(per_sample_loss(prediction, target, {}), per_sample_mse(prediction, target)));
  const LossTerms halves{LossType::l2, {}, at::full({3, 1, 5, 7}, 0.5), false};
  EXPECT_TRUE(at::equal(per_sample_loss(prediction, target, halves), per_sample_mse(prediction, target) / 2));
}

TEST(Loss, PseudoHuberIsQuadraticInsideAndLinearOutside) {
  const at::Tensor zero = at::zeros({2, 1, 1, 1});
  at::Tensor difference = at::zeros({2, 1, 1, 1});
  difference[0] = 1e-2;
  difference[1] = 1e3;
  const LossTerms huber{LossType::huber, at::full({2}, 0.5), {}, true};
  const at::Tensor loss = per_sample_loss(difference, zero, huber);
  EXPECT_NEAR(loss[0].item<double>(), 1e-4, 1e-7);
  EXPECT_NEAR(loss[1].item<double>(), 2 * 0.5 * (1e3 - 0.5), 1e-2);
  const LossTerms smooth{LossType::smooth_l1, at::full({2}, 0.5), {}, true};
  EXPECT_NEAR(per_sample_loss(difference, zero, smooth)[1].item<double>(), 2 * (1e3 - 0.5), 1e-2);
}

TEST(Loss, GradientReachesOnlyWhatTheMaskShows) {
  at::Tensor prediction = numbers(1, {1, 2, 4, 4}).requires_grad_(true);
  at::Tensor masks = at::zeros({1, 4, 4}, at::kByte);
  masks.slice(2, 0, 2).fill_(255);
  const LossTerms terms{LossType::l2, {}, mask_weight(masks, 0), true};
  per_sample_loss(prediction, at::zeros({1, 2, 4, 4}), terms).sum().backward();
  EXPECT_TRUE(prediction.grad().slice(3, 2, 4).eq(0).all().item<bool>());
  EXPECT_TRUE(prediction.grad().slice(3, 0, 2).ne(0).all().item<bool>());
  prediction.mutable_grad().zero_();
  const LossTerms empty{LossType::l2, {}, mask_weight(at::zeros_like(masks), 0), true};
  per_sample_loss(prediction, at::zeros({1, 2, 4, 4}), empty).sum().backward();
  EXPECT_TRUE(prediction.grad().eq(0).all().item<bool>()) << "no NaN from an area of 0";
}

TEST(Loss, OptionsThatMakeNoSenseAreNamed) {
  const auto expect_error = [](const std::function<void(LossConfig&)>& change, const std::string& option) {
    LossConfig config;
    change(config);
    try {
      check_loss_options(config);
      ADD_FAILURE() << option << ": no error";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("loss." + option), std::string::npos) << error.what();
    }
  };
  EXPECT_NO_THROW(check_loss_options({}));
  expect_error([](LossConfig& c) { c.loss_type = "l1"; }, "loss_type");
  expect_error([](LossConfig& c) { c.huber_schedule = "linear"; }, "huber_schedule");
  expect_error([](LossConfig& c) { c.huber_c = 0; }, "huber_c");
  expect_error([](LossConfig& c) { c.snr_gamma = -1; }, "snr_gamma");
  expect_error([](LossConfig& c) { c.unmasked_weight = 1.5; }, "unmasked_weight");
}

TEST(TimestepSampler, DefaultsAreOneIntegerOfTheDrawsStream) {
  const TimestepSampler sampler({}, schedule(), 8);
  const std::vector<std::uint64_t> draws{0, 7, 1ULL << 40};
  const std::vector<std::int64_t> timesteps = sampler.sample(5, 1, draws);
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const RandomStream stream{5, Purpose::timestep, 1, draws[i]};
    EXPECT_EQ(timesteps[i], static_cast<std::int64_t>(stream.integer(0, 1000)));
  }
}

TEST(TimestepSampler, ADrawsTimestepDoesNotDependOnItsCompany) {
  NoiseConfig config;
  config.stratified = true;
  config.timestep_sampling = "logit_normal";
  const TimestepSampler sampler(config, schedule(), 4);
  const auto together = sampler.sample(5, 0, std::vector<std::uint64_t>{2, 3, 4, 5, 1});
  const std::vector<std::uint64_t> draws{2, 3, 4, 5, 1};
  for (std::size_t i = 0; i < draws.size(); ++i) {
    EXPECT_EQ(sampler.sample(5, 0, std::vector<std::uint64_t>{draws[i]}).front(), together[i]);
  }
}

TEST(TimestepSampler, StaysInItsRangeHoweverFarTheNormalReaches) {
  for (const char* sampling : {"uniform", "logit_normal", "log_normal"}) {
    NoiseConfig config;
    config.timestep_sampling = sampling;
    config.timestep_std = 50;
    config.min_timestep = 300;
    config.max_timestep = 302;
    std::vector<std::uint64_t> draws(64);
    for (std::size_t i = 0; i < draws.size(); ++i) draws[i] = i;
    bool low = false, high = false;
    for (const std::int64_t t : TimestepSampler(config, schedule(), 8).sample(0, 0, draws)) {
      EXPECT_TRUE(t == 300 || t == 301) << t;
      (t == 300 ? low : high) = true;
    }
    EXPECT_TRUE(low && high) << sampling;
  }
}

TEST(TimestepSampler, RefusesRangesAndNames) {
  const auto refused = [](std::int64_t low, std::int64_t high, const char* sampling = "uniform", double deviation = 1) {
    NoiseConfig config;
    config.min_timestep = low;
    config.max_timestep = high;
    config.timestep_sampling = sampling;
    config.timestep_std = deviation;
    EXPECT_THROW(TimestepSampler(config, schedule(), 8), InputError);
  };
  refused(-1, 0);
  refused(0, 1001);
  refused(500, 500);
  refused(0, 0, "gaussian");
  refused(0, 0, "log_normal", 0);
}

}  // namespace
}  // namespace ldmtune::diffusion
