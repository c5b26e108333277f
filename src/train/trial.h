#pragma once
// One trial: what trains, its schedule and its seed. A step takes a list of them; a plain run has one.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "core/config.h"
#include "data/captions.h"
#include "data/sample_stream.h"
#include "model/base_model.h"
#include "optim/adamw.h"
#include "optim/arena.h"
#include "optim/schedule.h"

namespace ldmtune::train {

/// What one trial's options decide, ready to train.
struct Trial {
  std::uint64_t seed = 0;
  std::unique_ptr<adapt::Adapter> adapter;
  std::unique_ptr<optim::Arena> arena;
  std::unique_ptr<optim::AdamW> optimizer;  ///< moments of this rank's slice
  std::unique_ptr<optim::LearningRateSchedule> learning_rate;
  std::unique_ptr<optim::PiecewiseSchedule> max_grad_norm, max_grad_value;
  std::unique_ptr<data::SampleStream> stream;
};

/// Adapter of config.method with its parameters initialized. Errors: InputError naming the option.
std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base);

/// A trial at step 0; `bucket_sizes` are the training samples by bucket, [begin, end) this rank's slice of the arena.
Trial make_trial(const TrainConfig& config, const model::BaseModel& base,
                 const std::vector<std::uint32_t>& bucket_sizes, std::int64_t max_train_steps, int rank, int ranks,
                 at::Device device);

}  // namespace ldmtune::train
