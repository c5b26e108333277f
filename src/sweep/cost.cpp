#include "sweep/cost.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/dataset_mix.h"
#include "optim/schedule.h"
#include "store/files.h"
#include "sweep/memory_plan.h"
#include "sweep/plan.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;
using model::UNetConfig;

std::int64_t images_of(const data::LatentDataset& dataset, store::Split split) {
  std::int64_t count = 0;
  for (const auto& bucket : dataset.by_bucket(split)) {
    for (const std::size_t sample : bucket) count += dataset.record(sample).variant == 0;
  }
  return count;
}

std::int64_t images_of(const data::DatasetMix& mix, store::Split split) {
  std::int64_t count = 0;
  for (const auto& dataset : mix.datasets()) count += images_of(*dataset, split);
  return count;
}

/// Images that one pass takes; data.subset is spread over the datasets as their images are.
double images_per_pass(const DataConfig& options, const DataSize& data) {
  double weighted = 0, all = 0;
  for (std::size_t i = 0; i < data.training_of.size(); ++i) {
    const auto images = static_cast<double>(data.training_of[i]);
    weighted += images * (i < options.weights.size() ? options.weights[i] : 1);
    all += images;
  }
  if (options.subset == 0) return weighted;
  return static_cast<double>(options.subset) * (all > 0 ? weighted / all : 1);
}

double updates_of(const TrainConfig& config, const DataSize& data, double update_flops) {
  double updates = static_cast<double>(config.train.max_train_steps);
  if (config.train.max_tflops > 0) {
    updates = static_cast<double>(train::updates_within_budget(config.train, update_flops));
  } else if (config.train.num_train_epochs > 0) {
    const double images =
        static_cast<double>(config.train.num_train_epochs) * images_per_pass(config.data_options, data);
    updates = std::ceil(images / static_cast<double>(config.train.global_batch_size));
  }
  const auto last = optim::PiecewiseSchedule(config.optim.learning_rate, "optim.learning_rate").last_update();
  return last ? std::min(updates, static_cast<double>(*last)) : updates;
}

/// Forwards of all validations: held-out, training and adjacent images every time, test images at both ends,
/// those that stop.rule watches.
double validation_forwards(const TrainConfig& config, const DataSize& data, double updates) {
  const auto limited = [&](std::int64_t images) {
    const std::int64_t limit = config.validation.max_images;
    return static_cast<double>(limit > 0 ? std::min(limit, images) : images);
  };
  const double every = static_cast<double>(config.validation.steps);
  const double times = 1 + (every > 0 ? std::ceil(updates / every) : 1);
  const double adjacent = (config.validation.adjacent_trigger.empty() ? 1 : 2) * limited(data.adjacent);
  const double images = 2 * limited(data.heldout) + adjacent;
  const StopConfig& stop = config.stop;
  const double watched = stop.rule == "none" ? 0
                                             : (1 + std::floor(updates / static_cast<double>(stop.every))) *
                                                   static_cast<double>(stop.images);
  return (images * times + 2 * limited(data.test) + watched) * static_cast<double>(config.validation.timesteps);
}

/// Speed that finished trials reached, all operations over all seconds and ranks; 0 where none is done.
double reached_speed(const Grid& grid) {
  double flops = 0, seconds = 0;
  for (const Trial& trial : grid.trials) {
    const TrialState state = read_state(grid.sweep.output, trial);
    if (state.status != TrialStatus::done) continue;
    const auto time = state.result.find("seconds"), ranks = state.result.find("ranks");
    if (time == state.result.end() || !time->is_number() || ranks == state.result.end() || !ranks->is_number())
      continue;
    const UNetConfig unet = base_unet_config(trial.config.base);
    flops += 1e12 *
             trial_cost(trial.config, data_size(trial.config, unet), unet).tflops();
    seconds += time->get<double>() * ranks->get<double>();
  }
  return seconds > 0 ? flops / seconds : 0;
}

/// A convolution and a matrix product of the size that fine-tuning has: the fastest of many rounds, since others may be
/// using the machine now. Training reaches about this share of it.
double measured_speed() {
  constexpr double kShareReached = 0.8;
  constexpr double kSeconds = 0.2;
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = at::ones({512, 512}), image = at::ones({4, 64, 32, 32}), kernel = at::ones({64, 64, 3, 3});
  const double flops = 2.0 * 512 * 512 * 512 + 2.0 * 4 * 1024 * 64 * 64 * 9;
  using Clock = std::chrono::steady_clock;
  double fastest = std::numeric_limits<double>::infinity();
  for (const Clock::time_point start = Clock::now();
       std::chrono::duration<double>(Clock::now() - start).count() < kSeconds;) {
    const Clock::time_point before = Clock::now();
    at::mm(matrix, matrix);
    at::conv2d(image, kernel, {}, {1, 1}, {1, 1});
    fastest = std::min(fastest, std::chrono::duration<double>(Clock::now() - before).count());
  }
  return kShareReached * flops / fastest;
}

}  // namespace

UNetConfig base_unet_config(const fs::path& base) { return train::read_base_shape(base).unet; }

DataSize data_size(const TrainConfig& config, const UNetConfig& unet) {
  DataSize size;
  size.latent_height = size.latent_width = unet.sample_size;
  try {
    const data::DatasetMix dataset(config.data, /*verify_below=*/0);
    const store::BucketSize* largest = nullptr;
    for (const store::BucketSize& bucket : dataset.buckets()) {
      if (largest == nullptr || bucket.width * bucket.height > largest->width * largest->height) largest = &bucket;
    }
    if (largest != nullptr && dataset.size() > 0) {
      const at::Tensor mean = dataset.latent(0).mean;  // the VAE's factor is what the files show
      const double factor = static_cast<double>(dataset.bucket(0).height) / static_cast<double>(mean.size(1));
      size.latent_height = static_cast<std::int64_t>(static_cast<double>(largest->height) / factor);
      size.latent_width = static_cast<std::int64_t>(static_cast<double>(largest->width) / factor);
    }
    size.training_sizes = train::training_sizes(dataset);
    for (const auto& each : dataset.datasets()) size.training_of.push_back(images_of(*each, store::Split::train));
    size.heldout = images_of(dataset, store::Split::validation);
    size.test = images_of(dataset, store::Split::test);
    const auto& validation = config.validation;
    if (!validation.adjacent_prompts.empty() && !fs::exists(validation.adjacent)) {
      size.adjacent = validation.num_adjacent_images;
    } else if (!validation.adjacent.empty()) {
      size.adjacent = images_of(data::LatentDataset(config.validation.adjacent, 0), store::Split::validation);
    }
  } catch (const InputError&) {
    // A plan may be made where the data is not; check_trials refuses before anything runs.
  }
  return size;
}

TrialCost trial_cost(const TrainConfig& config, const DataSize& data, const UNetConfig& unet, int ranks) {
  train::BaseShape shape = train::read_base_shape(config.base);
  shape.unet = unet;
  const std::vector<optim::ParameterSpec> trained = planned_parameters(config);
  const std::int64_t height = data.latent_height, width = data.latent_width;
  const model::UNetCost forward = model::unet_cost(unet, height, width, shape.text_tokens(config.caption));
  TrialCost cost;
  const std::vector<train::LatentShare> unknown{{height, width, 1}};
  const double of_update =
      train::update_flops(config, trained, shape, data.training_sizes.empty() ? unknown : data.training_sizes);
  const double updates = updates_of(config, data, of_update);
  cost.updates = static_cast<std::int64_t>(updates);
  cost.training_flops = updates * of_update;
  const double validated = forward.flops + train::adapter_flops(config, trained, shape, height, width);
  cost.validation_flops = validation_forwards(config, data, updates) * validated;
  cost.bytes = memory_plan(config, trained, data, ranks).total();
  return cost;
}

Speed estimate_speed(const Grid& grid) {
  if (grid.sweep.tflops_per_s > 0) return {grid.sweep.tflops_per_s * 1e12, "sweep.tflops_per_s"};
  const double reached = reached_speed(grid);
  if (reached > 0) return {reached, "what finished trials of this sweep reached"};
  return {measured_speed(), "measured on this machine now"};
}

}  // namespace ldmtune::sweep
