#pragma once
// One optimizer update over all ranks: sample, forward, backward, canonical-tree reduce-scatter, clip, AdamW,
// all-gather.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
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
  std::map<std::string, double> learning_rates;  ///< by parameter group
  bool finite = true;                            ///< false: loss or gradient is not finite and nothing was updated
  bool skipped = false;                          ///< fp16: overflowed; counted, but nothing was updated
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
  /// `pack_width` trials at most go through the model together, in batches of pack_width * micro_batch_size rows: where
  /// fewer are left, rows are filled up, since the width of a batch decides the bits of its rows.
  Step(const model::BaseModel& base, const pipeline::PromptEncoder& prompts, std::int64_t global_batch_size,
       std::int64_t micro_batch_size, comm::Communicator& comm, std::size_t pack_width = 1);

  /// The next update of each trial (1 to pack_width of them, each at a step of its own); counts Trial::step up. A trial
  /// whose loss or gradient is not finite keeps its parameters, its optimizer's state and its step.
  std::vector<TrialStep> run(const std::vector<Trial*>& trials, StepObserver* observer = nullptr);

 private:
  /// Forward and backward of one leaf: fresh gradients (one flat buffer a trial) and losses (one a trial).
  struct LeafResult {
    std::vector<at::Tensor> gradients;
    std::vector<double> losses;
  };
  LeafResult run_leaf(const std::vector<Trial*>& trials, std::int64_t leaf, StepObserver* observer);
  struct Prediction {
    at::Tensor rows;                           ///< of all trials, f32
    std::unique_ptr<model::ModelHooks> hooks;  ///< gradient checkpointing calls them again in backward
  };
  /// Predictions in one forward; fills MicroBatch::context where a trial trains it.
  Prediction predict(const std::vector<Trial*>& trials, std::vector<MicroBatch>& batches) const;
  model::AddedConditioning added_of_all(const std::vector<MicroBatch>& batches) const;
  /// The rows of all batches one below the other, filled up to the pack's width with the first row.
  template <class Member>
  at::Tensor full_width(const std::vector<MicroBatch>& batches, Member member) const;
  /// Each trial's loss: the leaves' losses of all ranks summed along the canonical tree.
  std::vector<double> reduce_losses(const std::vector<double>& local, std::size_t trials) const;
  TrialStep update(Trial& trial, double loss);
  double gradient_norm(const Trial& trial) const;
  /// A gradient buffer that is not in use: the arenas' first ones, then those of earlier updates.
  void offer_buffer(const at::Tensor& buffer);
  at::Tensor take_buffer(const Trial& trial);

  const model::BaseModel& base_;
  const pipeline::PromptEncoder& prompts_;
  std::int64_t global_batch_size_, micro_batch_size_, leaves_;
  comm::Communicator& comm_;
  std::int64_t full_rows_;
  std::vector<at::Tensor> free_buffers_;
};

/// The whole of a flat buffer of which each rank holds its owned slice (a collective). Returns a copy.
at::Tensor gather_slices(comm::Communicator& comm, const at::Tensor& flat);

}  // namespace ldmtune::train
