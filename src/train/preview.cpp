#include "train/preview.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "pipeline/generate_shared.h"
#include "store/image.h"

namespace ldmtune::train {
namespace {

constexpr std::int64_t kSmallImage = 128;  // pixels; smaller pictures are enlarged to be seen

}  // namespace

Preview::Preview(const model::BaseModel& base, pipeline::PromptEncoder& prompts, const SampleConfig& config,
                 std::vector<std::string> prompt_texts, comm::Communicator& comm)
    : base_(base), prompts_(prompts), config_(config), texts_(std::move(prompt_texts)), comm_(comm) {}

std::vector<at::Tensor> Preview::draw(const Trial* trial) const {
  std::vector<pipeline::SharedRequest> requests(texts_.size());
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    pipeline::GenerateRequest& request = requests[i].request;
    request.prompt = texts_[i];
    request.negative_prompt = config_.negative_prompt;
    request.seed = config_.seed;
    request.index = i;
    request.num_inference_steps = config_.num_inference_steps;
    request.guidance_scale = config_.guidance_scale;
    request.sampler = config_.sampler;
    request.hooks_in_text_encoder = trial && trial->adapter->trains_text_encoder();
    if (trial) requests[i].hooks = [trial](std::int64_t) { return trial->adapter->hooks(*trial->arena, {}); };
  }
  std::vector<at::Tensor> images;
  for (auto& result : pipeline::generate_shared(base_, prompts_, requests, comm_)) images.push_back(result.image);
  return images;
}

void Preview::draw_base() {
  if (!base_drawn_) base_images_ = draw(nullptr);
  base_drawn_ = true;
}

void Preview::write(const std::filesystem::path& run_folder, const Trial& trial, std::int64_t step) {
  if (texts_.empty()) return;
  draw_base();
  const std::vector<at::Tensor> images = draw(&trial);
  if (comm_.rank() != 0) return;
  store::ImageGrid grid;
  grid.column_labels = {"base", "step " + std::to_string(step)};
  grid.row_labels = texts_;
  for (std::size_t i = 0; i < images.size(); ++i) grid.rows.push_back({base_images_[i], images[i]});
  const int scale = static_cast<int>(std::max<std::int64_t>(1, kSmallImage / images.front().size(1)));
  char name[40];
  std::snprintf(name, sizeof name, "step-%08lld.png", static_cast<long long>(step));
  std::filesystem::create_directories(run_folder / "samples");
  store::write_png(run_folder / "samples" / name, store::draw_grid(grid, scale));
}

}  // namespace ldmtune::train
