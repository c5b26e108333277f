#include "train/class_images.h"

#include "core/error.h"
#include "train/drawn_dataset.h"

namespace ldmtune::train {
namespace {

// Class images that train must not be what forgetting is measured on, should the prompts be the same.
constexpr std::uint64_t kFirstAdjacentIndex = std::uint64_t{1} << 20;

}  // namespace

std::unique_ptr<data::LatentDataset> open_class_data(const TrainConfig& config, const model::BaseModel& base,
                                                     const std::string& unmerged_sha256, comm::Communicator& comm) {
  const DreamboothConfig& dreambooth = config.dreambooth;
  if (config.method != "dreambooth" || !dreambooth.with_prior_preservation) return nullptr;
  DrawnDataset drawn;
  drawn.what = "class images";
  drawn.folder_option = "dreambooth.class_data";
  drawn.prompts_option = "dreambooth.class_prompt";
  drawn.count_option = "dreambooth.num_class_images";
  drawn.folder = dreambooth.class_data;
  drawn.prompts = listed_prompts(dreambooth.class_prompt, drawn.prompts_option);
  drawn.count = dreambooth.num_class_images;
  drawn.base_sha256 = unmerged_sha256;
  drawn.file_stem = "class";
  return open_or_draw(drawn, config, base, comm);
}

std::unique_ptr<data::LatentDataset> open_adjacent_data(const TrainConfig& config, const model::BaseModel& base,
                                                        const std::string& unmerged_sha256, comm::Communicator& comm) {
  const ValidationConfig& validation = config.validation;
  if (validation.adjacent.empty()) return nullptr;
  if (validation.adjacent_prompts.empty()) return std::make_unique<data::LatentDataset>(validation.adjacent);
  DrawnDataset drawn;
  drawn.what = "adjacent images";
  drawn.folder_option = "validation.adjacent";
  drawn.prompts_option = "validation.adjacent_prompts";
  drawn.count_option = "validation.num_adjacent_images";
  drawn.folder = validation.adjacent;
  drawn.prompts = listed_prompts(validation.adjacent_prompts, drawn.prompts_option);
  drawn.count = validation.num_adjacent_images;
  drawn.first_index = kFirstAdjacentIndex;
  drawn.base_sha256 = unmerged_sha256;
  drawn.file_stem = "adjacent";
  drawn.split = "validation";
  return open_or_draw(drawn, config, base, comm);
}

}  // namespace ldmtune::train
