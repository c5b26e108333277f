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
#include "data/captions.h"
#include "data/dataset_mix.h"
#include "diffusion/noise_schedule.h"
#include "model/base_model.h"
#include "pipeline/text.h"

namespace ldmtune::train {

/// A fixed list of images of one kind ("heldout", "train", "adjacent", "test").
struct ValidationSet {
  std::string kind;
  const data::DatasetMix* dataset = nullptr;
  std::vector<std::size_t> samples;  ///< indices into the dataset
  bool uses_templates = true;        ///< captions as trained (the concept) or as they stand (adjacent)
};

/// Loss of one set: plain mean squared error over the set's images and the fixed timesteps.
struct ValidationLoss {
  double mean = 0;
  std::array<double, 4> by_quartile{};  ///< timesteps [0, T/4), [T/4, T/2) ...
  std::vector<double> by_image;         ///< in the order of ValidationSet::samples
};

class Validator {
 public:
  /// Errors: InputError naming the option (timesteps no multiple of 4, batch size below 1).
  Validator(const model::BaseModel& base, const diffusion::NoiseSchedule& schedule, pipeline::PromptEncoder& prompts,
            const TrainConfig& config, comm::Communicator& comm, at::Device device);

  /// A collective: ranks share the batches. `hooks` makes hooks for one forward (none: the untouched base), which with
  /// `in_text_encoder` change what prompts mean too.
  using HooksFactory = std::function<std::unique_ptr<model::ModelHooks>()>;
  ValidationLoss evaluate(const ValidationSet& set, const HooksFactory& hooks, bool in_text_encoder = false) const;

  /// floor((j + 1/2) T / n) for j = 0 .. n-1.
  const std::vector<std::int64_t>& timesteps() const { return timesteps_; }

 private:
  /// One (image, timestep) pair.
  struct Row {
    std::size_t sample;
    std::size_t timestep_index;
  };
  std::vector<double> evaluate_batch(const ValidationSet& set, const std::vector<Row>& rows, const HooksFactory& hooks,
                                     bool in_text_encoder) const;

  const model::BaseModel& base_;
  const diffusion::NoiseSchedule& schedule_;
  pipeline::PromptEncoder& prompts_;
  data::CaptionTemplates templates_;
  std::uint64_t seed_;
  std::int64_t batch_size_;
  comm::Communicator& comm_;
  at::Device device_;
  std::vector<std::int64_t> timesteps_;
};

/// First variant (as is) of the split's images in order of image hash, at most `limit` (0: all).
std::vector<std::size_t> validation_samples(const data::DatasetMix& dataset, store::Split split, std::int64_t limit);

}  // namespace ldmtune::train
