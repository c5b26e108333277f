#pragma once
// What captions become before they train or are measured: one template for all, or a prompt for each concept.

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/captions.h"

namespace ldmtune::train {

/// dreambooth.instance_prompt's prompts, separated by |; empty with other methods.
std::vector<std::string> instance_prompts(const TrainConfig& config);

/// What [name] stands for: caption.name or, where one word is learned, that word. Every reader of captions takes it
/// from here, so that a trial's file, a sweep's pictures and training agree.
std::string concept_name(const TrainConfig& config);

/// With several instance prompts the images of each of config.data's datasets are called by their own; else
/// caption.template, or the one instance prompt, holds for all.
class ConceptTemplates {
 public:
  /// Errors: InputError naming dreambooth.instance_prompt where there are neither one nor as many as datasets, and as
  /// data::CaptionTemplates ([name] where several words are learned: which of them?).
  explicit ConceptTemplates(const TrainConfig& config);

  /// `dataset`: its place in config.data.
  const data::CaptionTemplates& of(std::uint32_t dataset) const {
    return templates_.size() == 1 ? templates_.front() : templates_.at(dataset);
  }

 private:
  std::vector<data::CaptionTemplates> templates_;
};

}  // namespace ldmtune::train
