#pragma once
// Everything runs are made of, loaded and checked before anything is written: what the trials of a process share (the
// base, the datasets), and what each has of its own.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/dataset_mix.h"
#include "diffusion/noise_schedule.h"
#include "model/base_model.h"
#include "pipeline/text.h"
#include "train/micro_batch.h"
#include "train/validation.h"

namespace ldmtune::train {

/// Base, datasets and validator of all trials of a process.
class SharedSetup {
 public:
  /// From the configuration of any of the trials. Errors: InputError for anything wrong with options, base or datasets.
  SharedSetup(const TrainConfig& config, comm::Communicator& comm);
  SharedSetup(const SharedSetup&) = delete;
  SharedSetup& operator=(const SharedSetup&) = delete;

  const TrainConfig config;
  const at::Device device;

 private:
  std::string unmerged_base_sha256_;  ///< loading the base notes it

 public:
  const model::BaseModel base;
  const diffusion::NoiseSchedule schedule;
  pipeline::PromptEncoder prompts;
  const data::DatasetMix dataset;
  const std::unique_ptr<data::DatasetMix> class_data;  ///< null without prior preservation
  const std::unique_ptr<data::DatasetMix> adjacent;
  const Validator validator;

  /// Names what trains: the dataset and, with prior preservation, the class images.
  std::string training_data_sha256() const;
  /// What the untouched base does with a set: its loss and, where the set measures drift, this rank's predictions.
  struct BaseMeasurement {
    ValidationLoss loss;  ///< drift 0
    Predictions predictions;
  };
  /// A collective when it is measured, the first time for these images; call it before training changes the base.
  const BaseMeasurement& base_measurement(const ValidationSet& set);

 private:
  std::map<std::pair<std::string, std::vector<std::size_t>>, BaseMeasurement> base_measurements_;
};

/// What SharedSetup::training_data_sha256 would be with the folders as they are now; empty where one is missing.
std::string training_data_sha256(const TrainConfig& config);

/// Options whose errors need no model, checked and completed (found first, in milliseconds). Errors: InputError.
TrainConfig checked_config(const TrainConfig& config, int ranks);

/// Text that is equal for trials that may share a process and a forward: all options but those of the trial alone.
std::string pack_key(const TrainConfig& config);

/// Whether trials of this method change the base's own weights, so that each needs a base of its own.
bool changes_base(const TrainConfig& config);

/// One trial's options and what follows from them.
class TrialSetup {
 public:
  /// Errors: InputError naming the option.
  TrialSetup(const TrainConfig& config, SharedSetup& shared, int ranks);
  TrialSetup(const TrialSetup&) = delete;
  TrialSetup& operator=(const TrialSetup&) = delete;

  const TrainConfig config;
  SharedSetup& shared;
  const double update_flops;  ///< counted operations of an update (train/training_flops.h)
  const BatchSource source;
  const std::optional<BatchSource> class_source;  ///< with prior preservation
  const std::int64_t max_train_steps;
  /// "heldout", "train" and, where there are such, "adjacent" and "adjacent_trigger": measured while training.
  std::vector<ValidationSet> validation_sets;
  /// The training images that stop.rule watches; empty without one.
  ValidationSet stop_set;
  /// The test split: measured once, for the analysis.
  ValidationSet test_set;

  /// validation_sets and, where it has images, test_set: measured at the start and at the end.
  std::vector<ValidationSet> all_sets() const;
  /// Captions of previews: sample.prompts, or held-out captions with the template applied.
  std::vector<std::string> preview_prompts() const;
  /// Every option as text.
  std::map<std::string, std::string> options() const;
  /// As a config file.
  std::string echo() const;

 private:
  void collect_validation_sets();
  void add_adjacent_sets(const std::vector<std::size_t>& samples);
};

}  // namespace ldmtune::train
