#pragma once
// Sample grids while training: the untouched base beside the trial, same noise.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "model/base_model.h"
#include "pipeline/text.h"
#include "train/trial.h"

namespace ldmtune::train {

class Preview {
 public:
  Preview(const model::BaseModel& base, pipeline::PromptEncoder& prompts, const SampleConfig& config,
          std::vector<std::string> prompt_texts, comm::Communicator& comm);

  /// The base's pictures (a collective), drawn once: before training where it changes the base.
  void draw_base();
  /// Writes samples/step-NNNNNNNN.png of the run folder; ranks share the pictures (a collective).
  void write(const std::filesystem::path& run_folder, const Trial& trial, std::int64_t step);

 private:
  /// Pictures of the trial, or of the untouched base: on rank 0, in the order of the prompts.
  std::vector<at::Tensor> draw(const Trial* trial) const;

  const model::BaseModel& base_;
  pipeline::PromptEncoder& prompts_;
  SampleConfig config_;
  std::vector<std::string> texts_;
  comm::Communicator& comm_;
  std::vector<at::Tensor> base_images_;  ///< drawn once; held by rank 0
  bool base_drawn_ = false;
};

}  // namespace ldmtune::train
