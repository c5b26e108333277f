#pragma once
// Everything a run is made of, loaded and checked before anything is written.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/latent_dataset.h"
#include "diffusion/noise_schedule.h"
#include "model/base_model.h"
#include "pipeline/text.h"
#include "train/micro_batch.h"
#include "train/validation.h"

namespace ldmtune::train {

class Setup {
 public:
  /// Errors: InputError for anything wrong with options, base or datasets.
  Setup(const TrainConfig& config, comm::Communicator& comm);
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  const TrainConfig config;
  const at::Device device;
  const model::BaseModel base;
  const diffusion::NoiseSchedule schedule;
  const data::LatentDataset dataset;
  const std::unique_ptr<data::LatentDataset> adjacent;
  pipeline::PromptEncoder prompts;
  const BatchSource source;
  const std::int64_t max_train_steps;
  const Validator validator;
  /// "heldout", "train" and, where there is one, "adjacent": measured while training.
  std::vector<ValidationSet> validation_sets;
  /// The test split: measured once, for the analysis.
  ValidationSet test_set;

  /// Captions of previews: sample.prompts, or held-out captions with the template applied.
  std::vector<std::string> preview_prompts() const;
  /// Every option as text.
  std::map<std::string, std::string> options() const;
  std::string echo() const;

 private:
  void collect_validation_sets();
};

}  // namespace ldmtune::train
