#pragma once
// Held-out loss at fixed noise and timesteps: the same for every run, trial, rank count and moment.

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "comm/communicator.h"
#include "core/config.h"
#include "data/dataset_mix.h"
#include "diffusion/noise_schedule.h"
#include "model/base_model.h"
#include "pipeline/text.h"
#include "train/concept_templates.h"

namespace ldmtune::train {

/// A fixed list of images of one kind ("heldout", "train", "adjacent", "adjacent_trigger", "test").
struct ValidationSet {
  std::string kind;
  const data::DatasetMix* dataset = nullptr;
  std::vector<std::size_t> samples;  ///< indices into the dataset
  bool uses_templates = true;        ///< captions as trained (the concept) or as they stand (adjacent)
  std::string trigger = {};          ///< stands before each caption, where there is one
  bool measures_drift = false;       ///< from the untouched base's predictions
};

/// What a model predicts of the batches of a set that this rank computes, in their order: (rows, C, h, w) on the CPU,
/// in the type that the model computes in. An SD 1 image of 512 pixels takes 64 KiB a timestep in fp32.
using Predictions = std::vector<at::Tensor>;

/// Loss of one set: plain mean squared error over the set's images and the fixed timesteps.
struct ValidationLoss {
  double mean = 0;
  std::array<double, 4> by_quartile{};  ///< timesteps [0, T/4), [T/4, T/2) ...
  std::vector<double> by_image;         ///< in the order of ValidationSet::samples
  /// Mean squared difference from the base's prediction at the same noise, timesteps and captions; empty where it was
  /// not measured.
  std::vector<double> drift_by_image;
  double drift = 0;  ///< its mean
};

class Validator {
 public:
  /// Errors: InputError naming the option (timesteps no multiple of 4, batch size below 1).
  Validator(const model::BaseModel& base, const diffusion::NoiseSchedule& schedule, pipeline::PromptEncoder& prompts,
            const TrainConfig& config, comm::Communicator& comm, at::Device device);

  using HooksFactory = std::function<std::unique_ptr<model::ModelHooks>()>;
  struct Options {
    bool in_text_encoder = false;       ///< hooks change what prompts mean too
    const Predictions* base = nullptr;  ///< of the same set on this rank: drift is measured from them
    Predictions* keep = nullptr;        ///< receives this rank's predictions
  };
  /// A collective: ranks share the batches. `hooks` makes hooks for one forward (none: the base as it is).
  ValidationLoss evaluate(const ValidationSet& set, const HooksFactory& hooks, const Options& options) const;
  ValidationLoss evaluate(const ValidationSet& set, const HooksFactory& hooks) const {
    return evaluate(set, hooks, Options{});
  }

  /// floor((j + 1/2) T / n) for j = 0 .. n-1.
  const std::vector<std::int64_t>& timesteps() const { return timesteps_; }

 private:
  /// One (image, timestep) pair.
  struct Row {
    std::size_t sample;
    std::size_t timestep_index;
  };
  using Batches = std::vector<std::vector<Row>>;
  /// A batch's inputs, filled up to the fixed width.
  struct Inputs;

  Batches batches_of(const ValidationSet& set) const;
  Inputs inputs_of(const ValidationSet& set, const std::vector<Row>& rows) const;
  /// (batch_size, C, h, w) in the model's type.
  at::Tensor predict(const Inputs& inputs, const HooksFactory& hooks, bool in_text_encoder) const;
  /// Every rank's values, one a row of its batches, in the order of the set's samples and timesteps (a collective).
  std::vector<double> in_order(const ValidationSet& set, const Batches& batches, const std::vector<double>& mine) const;

  const model::BaseModel& base_;
  const diffusion::NoiseSchedule& schedule_;
  pipeline::PromptEncoder& prompts_;
  ConceptTemplates templates_;
  std::uint64_t seed_;
  std::int64_t batch_size_;
  comm::Communicator& comm_;
  at::Device device_;
  std::vector<std::int64_t> timesteps_;
};

/// First variant (as is) of the split's images in order of image hash, at most `limit` (0: all).
std::vector<std::size_t> validation_samples(const data::DatasetMix& dataset, store::Split split, std::int64_t limit);

}  // namespace ldmtune::train
