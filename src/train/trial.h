#pragma once
// One trial: what trains, its optimizer, schedules, data and seed. A step takes a list of them; a plain run has one.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "comm/communicator.h"
#include "core/config.h"
#include "data/sample_stream.h"
#include "model/base_model.h"
#include "optim/arena.h"
#include "optim/ema.h"
#include "optim/loss_scaler.h"
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
  std::unique_ptr<optim::Ema> ema;          ///< of this rank's slice, with optim.use_ema
  std::optional<optim::LossScaler> scaler;  ///< with fp16
  std::unique_ptr<data::SampleStream> stream;
  const BatchSource* class_source = nullptr;  ///< with prior preservation
  std::unique_ptr<data::SampleStream> class_stream;

  /// 2 with prior preservation: every leaf of instances is followed by one of class images.
  std::int64_t leaves_per_micro_batch() const { return class_source ? 2 : 1; }
  /// What leaf `leaf` of the next update trains on, an update having `micro_batches` of the concept.
  MicroBatch next_micro_batch(std::int64_t leaf, std::int64_t micro_batches) const;

  /// Updates that changed the weights: all but those that overflowed in fp16.
  std::int64_t applied_updates() const { return step - (scaler ? scaler->skipped : 0); }
};

/// Adapter of config.method. Errors: InputError naming the option.
std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base);

/// A fresh optimizer, and averages if they are asked for, that begin at the arena's present values.
void attach_optimizer(Trial& trial, const TrainConfig& config, comm::Communicator& comm);

/// A trial at step 0 with its parameters initialized, for this rank's slice of the arena; the communicator must outlive
/// it.
Trial make_trial(const TrainConfig& config, const model::BaseModel& base, const BatchSource& source,
                 std::int64_t max_train_steps, comm::Communicator& comm, at::Device device,
                 const BatchSource* class_source = nullptr);

}  // namespace ldmtune::train
