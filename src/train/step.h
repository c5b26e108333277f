#pragma once
// One optimizer update over all ranks: sample, forward, backward, canonical-tree reduce-scatter, clip, AdamW,
// all-gather.

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "model/base_model.h"
#include "train/micro_batch.h"
#include "train/trial.h"

namespace ldmtune::train {

/// What one update did to one trial; the same on every rank.
struct TrialStep {
  double loss = 0;       ///< sum(weight_i * loss_i) / global_batch_size
  double grad_norm = 0;  ///< before clipping
  double clip_coefficient = 1;
  double learning_rate = 0;
  bool finite = true;  ///< false: loss or gradient is not finite and nothing was updated
};

/// What an observer (the audit trace) sees of one leaf, on the rank that computed it.
struct LeafView {
  std::int64_t leaf;  ///< index in the global batch
  std::size_t trial;
  const MicroBatch& batch;
  const at::Tensor& prediction;  ///< f32 (b, C, h, w)
  const at::Tensor& loss;        ///< f32 (b)
};

/// Called as the step goes; all ranks call all of them at the same points.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void on_leaf(const LeafView& leaf) = 0;
  /// Whole flat gradient of a trial, reduced, before clipping; call `gradient` for it (a collective) if wanted.
  virtual void on_gradient(std::size_t trial, const std::function<at::Tensor()>& gradient) = 0;
};

class Step {
 public:
  Step(const model::BaseModel& base, const BatchSource& source, std::int64_t global_batch_size,
       std::int64_t micro_batch_size, comm::Communicator& comm);

  /// Update number `step` = 1, 2, 3 ... of all trials. Trials have equal micro-batch sizes; their leaves go through the
  /// model together. A trial whose loss or gradient is not finite keeps its parameters and moments.
  std::vector<TrialStep> run(std::vector<Trial>& trials, std::int64_t step, StepObserver* observer = nullptr);

 private:
  /// Forward and backward of one leaf: fresh gradients (one flat buffer a trial) and losses (one a trial).
  struct LeafResult {
    std::vector<at::Tensor> gradients;
    std::vector<double> losses;
  };
  LeafResult run_leaf(std::vector<Trial>& trials, std::int64_t step, std::int64_t leaf, StepObserver* observer);
  /// Predictions of all trials' rows in one forward, f32.
  at::Tensor predict(const std::vector<Trial>& trials, const std::vector<MicroBatch>& batches) const;
  /// Each trial's loss: the leaves' losses of all ranks summed along the canonical tree.
  std::vector<double> reduce_losses(const std::vector<double>& local, std::size_t trials) const;
  TrialStep update(Trial& trial, std::int64_t step, double loss);
  double gradient_norm(const Trial& trial) const;
  at::Tensor take_buffer(const Trial& trial);

  const model::BaseModel& base_;
  const BatchSource& source_;
  std::int64_t global_batch_size_, micro_batch_size_, leaves_;
  comm::Communicator& comm_;
  std::vector<at::Tensor> free_buffers_;
};

/// The whole of a flat buffer of which each rank holds its owned slice (a collective). Returns a copy.
at::Tensor gather_slices(comm::Communicator& comm, const at::Tensor& flat);

}  // namespace ldmtune::train
