#include "train/drawn_dataset.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/text.h"
#include "pipeline/collective.h"
#include "pipeline/encode.h"
#include "pipeline/generate_shared.h"
#include "pipeline/text.h"
#include "store/files.h"
#include "store/image.h"
#include "train/drawing_lock.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDrawnAtOnce = 64;  // pictures that rank 0 holds in memory

std::string file_name(const DrawnDataset& drawn, std::int64_t index) {
  char number[40];
  std::snprintf(number, sizeof number, "-%06lld.png", static_cast<long long>(index));
  return drawn.file_stem + number;
}

const std::string& prompt_of(const DrawnDataset& drawn, std::int64_t index) {
  return drawn.prompts[static_cast<std::size_t>(index) % drawn.prompts.size()];
}

fs::path images_of(const DrawnDataset& drawn) { return drawn.folder.string() + ".images"; }

pipeline::SharedRequest request_of(const DrawnDataset& drawn, const SampleConfig& sample, std::int64_t index) {
  pipeline::SharedRequest shared;
  pipeline::GenerateRequest& request = shared.request;
  request.prompt = prompt_of(drawn, index);
  request.negative_prompt = sample.negative_prompt;
  request.seed = sample.seed;
  request.index = drawn.first_index + static_cast<std::uint64_t>(index);
  request.num_inference_steps = sample.num_inference_steps;
  request.guidance_scale = sample.guidance_scale;
  request.sampler = sample.sampler;
  return shared;
}

/// Only pictures that it lists are read: what a run that was stopped left there does no harm.
void write_captions(const DrawnDataset& drawn) {
  std::string lines;
  for (std::int64_t i = 0; i < drawn.count; ++i) {
    nlohmann::json line{{"file_name", file_name(drawn, i)}, {"text", prompt_of(drawn, i)}};
    if (!drawn.split.empty()) line["split"] = drawn.split;
    lines += line.dump() + "\n";
  }
  store::write_text(images_of(drawn) / "metadata.jsonl", lines);
}

void draw_images(const DrawnDataset& drawn, const TrainConfig& config, const model::BaseModel& base,
                 comm::Communicator& comm) {
  const bool is_root = comm.rank() == 0;
  // Its own, since what it keeps comes from the base in the type that it draws in.
  pipeline::PromptEncoder prompts(base, pipeline::prompt_options(config.caption));
  pipeline::run_together(comm, [&] {
    if (is_root) write_captions(drawn);
  });
  ProgressBar bar(drawn.what, drawn.count, "images", is_root);
  for (std::int64_t first = 0; first < drawn.count; first += kDrawnAtOnce) {
    std::vector<pipeline::SharedRequest> requests;
    for (std::int64_t i = first; i < std::min(drawn.count, first + kDrawnAtOnce); ++i) {
      requests.push_back(request_of(drawn, config.sample, i));
    }
    const auto results = pipeline::generate_shared(
        base, prompts, requests, comm, [&](std::size_t done) { bar.update(first + static_cast<std::int64_t>(done)); });
    pipeline::run_together(comm, [&] {
      for (std::size_t i = 0; i < results.size(); ++i) {
        store::write_png(images_of(drawn) / file_name(drawn, first + static_cast<std::int64_t>(i)), results[i].image);
      }
    });
  }
  bar.finish();
}

void make_dataset(const DrawnDataset& drawn, const TrainConfig& config, const model::BaseModel& base,
                  comm::Communicator& comm) {
  LDMTUNE_LOG(info) << "Drawing " << drawn.count << " " << drawn.what << " -> " << drawn.folder.string();
  PrepareConfig prepare;
  prepare.base = config.base;
  prepare.variant = config.variant;
  prepare.base_options = config.base_options;
  prepare.images = images_of(drawn);
  prepare.output = drawn.folder;
  prepare.test_images = 0;
  draw_images(drawn, config, base, comm);
  pipeline::prepare_dataset(prepare, comm);
}

void make_unless_there(const DrawnDataset& drawn, const TrainConfig& config, const model::BaseModel& base,
                       comm::Communicator& comm) {
  std::optional<DrawingLock> lock;
  const auto is_there = [&] { return fs::exists(drawn.folder); };
  const bool found =
      !pipeline::root_gives(comm, [&] {
         if (is_there()) return std::string("there");
         if (drawn.prompts.empty()) {
           fail_input("option ", drawn.folder_option, ": ", drawn.folder.string(), " does not exist, and without ",
                      drawn.prompts_option, " there is nothing to draw; give either");
         }
         fs::create_directories(images_of(drawn));
         lock.emplace(images_of(drawn), is_there);
         return std::string(is_there() ? "there" : "");
       }).empty();
  if (!found) make_dataset(drawn, config, base, comm);
}

std::string shortened(const std::string& sha256) { return sha256.substr(0, 12); }

/// With prompts the pictures stand for what this base makes of them; without, they are a dataset like another.
void check_drawn_by(const data::LatentDataset& dataset, const DrawnDataset& drawn) {
  const std::string& found = dataset.index().base_sha256;
  if (drawn.prompts.empty() || found == drawn.base_sha256) return;
  fail_input("option ", drawn.folder_option, ": ", dataset.folder().string(), " was made with another base (",
             shortened(found), ") than this run's (", shortened(drawn.base_sha256),
             "), so it does not hold what this base draws for ", drawn.prompts_option,
             "; give another folder, to draw them anew, or leave ", drawn.prompts_option,
             " empty to take this one as a dataset of your own");
}

void check_fits(const data::LatentDataset& dataset, const DrawnDataset& drawn) {
  if (static_cast<std::int64_t>(dataset.size()) < drawn.count) {
    fail_input("option ", drawn.count_option, ": expected at least ", drawn.count, " images in ",
               dataset.folder().string(), ", found ", dataset.size(), "; give a lower number, or another folder for ",
               drawn.folder_option, " to draw them anew");
  }
  const auto& prompts = drawn.prompts;
  for (std::size_t sample = 0; !prompts.empty() && sample < dataset.size(); ++sample) {
    if (std::find(prompts.begin(), prompts.end(), dataset.caption(sample)) != prompts.end()) continue;
    fail_input("option ", drawn.prompts_option, ": ", dataset.folder().string(), " holds an image of '",
               dataset.caption(sample),
               "', which is none of them; leave the prompts out to take it with its own captions");
  }
}

}  // namespace

std::vector<std::string> listed_prompts(const std::vector<std::string>& given, const std::string& option) {
  std::error_code ignored;
  if (given.size() != 1 || !fs::is_regular_file(given.front(), ignored)) return given;
  const std::string content = store::read_text(given.front());
  std::vector<std::string> prompts;
  for (const data::Line& line : data::nonblank_lines(content)) {
    data::check_caption(line.text, cat(given.front(), ":", line.number));
    prompts.emplace_back(data::trimmed(line.text));
  }
  if (prompts.empty()) fail_input("option ", option, ": expected a prompt a line in ", given.front(), ", found none");
  return prompts;
}

std::unique_ptr<data::LatentDataset> open_or_draw(const DrawnDataset& drawn, const TrainConfig& config,
                                                  const model::BaseModel& base, comm::Communicator& comm) {
  make_unless_there(drawn, config, base, comm);
  auto dataset = std::make_unique<data::LatentDataset>(drawn.folder);
  check_drawn_by(*dataset, drawn);
  check_fits(*dataset, drawn);
  return dataset;
}

}  // namespace ldmtune::train
