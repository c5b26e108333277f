#include "train/class_images.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "pipeline/collective.h"
#include "pipeline/encode.h"
#include "pipeline/generate_shared.h"
#include "store/files.h"
#include "store/image.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDrawnAtOnce = 64;  // pictures that rank 0 holds in memory

std::string file_name(std::int64_t index) {
  char name[40];
  std::snprintf(name, sizeof name, "class-%06lld.png", static_cast<long long>(index));
  return name;
}

std::string prompt_of(const DreamboothConfig& config, std::int64_t index) {
  return config.class_prompt[static_cast<std::size_t>(index) % config.class_prompt.size()];
}

pipeline::SharedRequest request_of(const TrainConfig& config, std::int64_t index) {
  pipeline::SharedRequest shared;
  pipeline::GenerateRequest& request = shared.request;
  request.prompt = prompt_of(config.dreambooth, index);
  request.negative_prompt = config.sample.negative_prompt;
  request.seed = config.sample.seed;
  request.index = static_cast<std::uint64_t>(index);
  request.num_inference_steps = config.sample.num_inference_steps;
  request.guidance_scale = config.sample.guidance_scale;
  request.sampler = config.sample.sampler;
  return shared;
}

void write_captions(const fs::path& folder, const DreamboothConfig& config) {
  std::string lines;
  for (std::int64_t i = 0; i < config.num_class_images; ++i) {
    lines += nlohmann::json{{"file_name", file_name(i)}, {"text", prompt_of(config, i)}}.dump() + "\n";
  }
  store::write_text(folder / "metadata.jsonl", lines);
}

void draw_images(const fs::path& folder, const TrainConfig& config, const model::BaseModel& base,
                 pipeline::PromptEncoder& prompts, comm::Communicator& comm) {
  const bool is_root = comm.rank() == 0;
  const std::int64_t count = config.dreambooth.num_class_images;
  pipeline::run_together(comm, [&] {
    if (!is_root) return;
    fs::remove_all(folder);  // of a run that was stopped while drawing
    fs::create_directories(folder);
    write_captions(folder, config.dreambooth);
  });
  ProgressBar bar("class images", count, "images", is_root);
  for (std::int64_t first = 0; first < count; first += kDrawnAtOnce) {
    std::vector<pipeline::SharedRequest> requests;
    for (std::int64_t i = first; i < std::min(count, first + kDrawnAtOnce); ++i) {
      requests.push_back(request_of(config, i));
    }
    const auto results = pipeline::generate_shared(
        base, prompts, requests, comm, [&](std::size_t done) { bar.update(first + static_cast<std::int64_t>(done)); });
    pipeline::run_together(comm, [&] {
      for (std::size_t i = 0; i < results.size(); ++i) {
        store::write_png(folder / file_name(first + static_cast<std::int64_t>(i)), results[i].image);
      }
    });
  }
  bar.finish();
}

void make_class_data(const TrainConfig& config, const model::BaseModel& base, pipeline::PromptEncoder& prompts,
                     comm::Communicator& comm) {
  const DreamboothConfig& dreambooth = config.dreambooth;
  if (dreambooth.class_prompt.empty()) {
    fail_input("option dreambooth.class_data: ", dreambooth.class_data.string(),
               " does not exist, and without dreambooth.class_prompt there is nothing to draw; give either");
  }
  LDMTUNE_LOG(info) << "Drawing " << dreambooth.num_class_images << " class images -> "
                    << dreambooth.class_data.string();
  PrepareConfig prepare;
  prepare.base = config.base;
  prepare.variant = config.variant;
  prepare.base_options = config.base_options;
  prepare.images = dreambooth.class_data.string() + ".images";
  prepare.output = dreambooth.class_data;
  prepare.test_images = 0;
  draw_images(prepare.images, config, base, prompts, comm);
  pipeline::prepare_dataset(prepare, comm);
}

void check_class_data(const data::LatentDataset& dataset, const DreamboothConfig& config) {
  if (static_cast<std::int64_t>(dataset.size()) < config.num_class_images) {
    fail_input("option dreambooth.num_class_images: expected at least ", config.num_class_images, " images in ",
               dataset.folder().string(), ", found ", dataset.size(),
               "; give a lower number, or another folder for dreambooth.class_data to draw them anew");
  }
  const auto& prompts = config.class_prompt;
  for (std::size_t sample = 0; !prompts.empty() && sample < dataset.size(); ++sample) {
    if (std::find(prompts.begin(), prompts.end(), dataset.caption(sample)) != prompts.end()) continue;
    fail_input("option dreambooth.class_prompt: ", dataset.folder().string(), " holds an image of '",
               dataset.caption(sample), "', which is none of them; leave the prompts out to train on its own captions");
  }
}

}  // namespace

std::unique_ptr<data::LatentDataset> open_class_data(const TrainConfig& config, const model::BaseModel& base,
                                                     pipeline::PromptEncoder& prompts, comm::Communicator& comm) {
  const DreamboothConfig& dreambooth = config.dreambooth;
  if (config.method != "dreambooth" || !dreambooth.with_prior_preservation) return nullptr;
  const bool is_there = !pipeline::root_gives(comm, [&] {
                           return std::string(fs::exists(dreambooth.class_data) ? "there" : "");
                         }).empty();
  if (!is_there) make_class_data(config, base, prompts, comm);
  auto dataset = std::make_unique<data::LatentDataset>(dreambooth.class_data);
  check_class_data(*dataset, dreambooth);
  return dataset;
}

}  // namespace ldmtune::train
