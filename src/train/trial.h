#pragma once
// One trial: what trains, its optimizer, schedules, data and seed. A step takes a list of them; a plain run has one.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "core/config.h"
#include "data/sample_stream.h"
#include "model/base_model.h"
#include "optim/arena.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/micro_batch.h"

namespace ldmtune::train {

/// What one trial's options decide, ready to train.
struct Trial {
  std::uint64_t seed = 0;
  std::int64_t step = 0;                ///< updates done
  const BatchSource* source = nullptr;  ///< what its micro-batches are made from
  std::unique_ptr<adapt::Adapter> adapter;
  std::unique_ptr<optim::Arena> arena;
  std::unique_ptr<optim::Optimizer> optimizer;                        ///< of this rank's slice
  std::map<std::string, optim::LearningRateSchedule> learning_rates;  ///< by parameter group
  std::unique_ptr<optim::PiecewiseSchedule> max_grad_norm, max_grad_value;
  std::unique_ptr<data::SampleStream> stream;
};

/// Adapter of config.method. Errors: InputError naming the option.
std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base);

/// A trial at step 0 with its parameters initialized, for this rank's slice of the arena.
Trial make_trial(const TrainConfig& config, const model::BaseModel& base, const BatchSource& source,
                 std::int64_t max_train_steps, int rank, int ranks, at::Device device);

}  // namespace ldmtune::train
