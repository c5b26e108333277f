#include "sweep/pictures.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "adapt/dreambooth.h"
#include "adapt/hypernetwork.h"
#include "adapt/lora_file.h"
#include "adapt/merge.h"
#include "adapt/textual_inversion.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/dataset_mix.h"
#include "pipeline/collective.h"
#include "pipeline/device.h"
#include "pipeline/encode.h"
#include "pipeline/generate.h"
#include "pipeline/zero_terminal_snr.h"
#include "store/files.h"
#include "store/image.h"
#include "store/safetensors.h"
#include "train/concept_templates.h"
#include "train/signals.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// One folder of pictures. `stamp` changes with everything that decides what they show.
struct Column {
  std::string name, kind, stamp;
  const ResultRow* row = nullptr;  ///< of a trial
};

fs::path pictures_folder(const Grid& grid) { return grid.sweep.output / "pictures"; }
fs::path picture_file(const Grid& grid, const Column& column, const Picture& picture) {
  return pictures_folder(grid) / column.name / (std::to_string(picture.sample_id) + ".png");
}

fs::path export_file(const ResultRow& row) { return row.state.folder / row.state.result.value("export", ""); }

/// The folders of images that `prepare` read, one a dataset; none where one is unknown or gone.
std::vector<fs::path> image_folders(const TrainConfig& config) {
  std::vector<fs::path> folders;
  for (const fs::path& dataset : config.data) {
    folders.emplace_back(store::read_json(dataset / "index.json").value("images", ""));
    if (folders.back().empty() || !fs::is_directory(folders.back())) return {};
  }
  return folders;
}

json drawing_settings(const TrainConfig& config, const json& result) {
  const SampleConfig& sample = config.sample;
  json settings{{"seed", sample.seed},
                {"negative_prompt", sample.negative_prompt},
                {"num_inference_steps", sample.num_inference_steps},
                {"guidance_scale", sample.guidance_scale},
                {"sampler", sample.sampler},
                {"base_sha256", result.value("base_sha256", "")},
                {"dataset_sha256", data::datasets_sha256(config.data)}};
  if (config.noise.rescale_betas_zero_snr) settings["rescale_betas_zero_snr"] = true;
  return settings;
}

json prompt_settings(const TrainConfig& config) {
  const CaptionConfig& caption = config.caption;
  json settings{
      {"template", caption.template_text}, {"name", train::concept_name(config)}, {"max_chunks", caption.max_chunks}};
  if (!train::instance_prompts(config).empty()) settings["instance_prompt"] = config.dreambooth.instance_prompt;
  return settings;
}

std::string prompt_of(const TrainConfig& config, const data::DatasetMix& dataset, const Picture& picture) {
  return train::ConceptTemplates(config).of(dataset.dataset_of(picture.sample)).plain(picture.caption);
}

bool same_ground(const TrainConfig& a, const TrainConfig& b) {
  return a.base == b.base && a.base_merge == b.base_merge && a.variant == b.variant && a.data == b.data &&
         a.noise.rescale_betas_zero_snr == b.noise.rescale_betas_zero_snr;
}

std::vector<const ResultRow*> drawable_rows(const std::vector<ResultRow>& rows, bool warn) {
  std::vector<const ResultRow*> drawable;
  for (const ResultRow& row : rows) {
    if (row.state.status != TrialStatus::done || !fs::is_regular_file(export_file(row))) continue;
    if (drawable.empty() || same_ground(row.trial->config, drawable.front()->trial->config)) {
      drawable.push_back(&row);
    } else if (warn) {
      LDMTUNE_LOG(warning) << "no pictures of trial " << row.trial->number
                           << ": its base, noise schedule or dataset is not trial " << drawable.front()->trial->number
                           << "'s";
    }
  }
  return drawable;
}

std::vector<Column> columns_of(const std::vector<const ResultRow*>& rows, bool warn) {
  const TrainConfig& config = rows.front()->trial->config;
  const json settings = drawing_settings(config, rows.front()->state.result);
  const auto stamp = [&](const json& own) { return store::sha256_text(json{settings, own}.dump()); };
  std::vector<Column> columns{{"base", "base", stamp(prompt_settings(config))}};
  for (const ResultRow* row : rows) {
    const json own{prompt_settings(row->trial->config), store::sha256_file(export_file(*row))};
    columns.push_back({row->state.folder.filename().string(), "trial", stamp(own), row});
  }
  if (!image_folders(config).empty()) {
    columns.push_back({"real", "real", stamp("real")});
  } else if (warn) {
    LDMTUNE_LOG(warning) << "the real images are left out of the pictures: index.json of " << config.data.string()
                         << " names no image folder that is there";
  }
  columns.push_back({"roundtrip", "roundtrip", stamp("roundtrip")});
  return columns;
}

/// Removes what was drawn with other settings, and notes what the folders will hold. Returns how many pictures are
/// missing.
std::int64_t prepare_folders(const Grid& grid, const std::vector<Column>& columns,
                             const std::vector<Picture>& pictures) {
  std::int64_t missing = 0;
  const fs::path stamps_file = pictures_folder(grid) / "stamps.json";
  json stamps = fs::exists(stamps_file) ? store::read_json(stamps_file) : json::object();
  for (const Column& column : columns) {
    const fs::path folder = pictures_folder(grid) / column.name;
    if (stamps.value(column.name, "") != column.stamp) fs::remove_all(folder);
    fs::create_directories(folder);
    stamps[column.name] = column.stamp;
    for (const Picture& picture : pictures) missing += !fs::exists(picture_file(grid, column, picture));
  }
  store::write_json(stamps_file, stamps);
  return missing;
}

std::vector<Picture> pictures_of_split(const data::DatasetMix& dataset, store::Split split, std::int64_t limit) {
  std::vector<Picture> pictures;
  for (const auto& bucket : dataset.by_bucket(split)) {
    for (const std::size_t sample : bucket) {
      const store::SampleRecord& record = dataset.record(sample);
      if (record.variant != 0) continue;
      pictures.push_back({sample, dataset.sample_key(sample), split == store::Split::test ? "test" : "validation",
                          dataset.caption(sample), dataset.source(sample), dataset.bucket(sample).width,
                          dataset.bucket(sample).height});
    }
  }
  std::sort(pictures.begin(), pictures.end(),
            [](const Picture& a, const Picture& b) { return a.sample_id < b.sample_id; });
  pictures.resize(std::min(pictures.size(), static_cast<std::size_t>(limit)));
  return pictures;
}

std::vector<Picture> choose_pictures(const data::DatasetMix& dataset, std::int64_t limit) {
  std::vector<Picture> pictures = pictures_of_split(dataset, store::Split::validation, limit);
  for (Picture& picture : pictures_of_split(dataset, store::Split::test, limit)) pictures.push_back(picture);
  return pictures;
}

/// Draws the pictures of one column after the other; models are loaded when the first picture needs them.
class Painter {
 public:
  Painter(const TrainConfig& config, const data::DatasetMix& dataset, at::Device device)
      : config_(config), dataset_(dataset), device_(device), images_(image_folders(config)) {}

  void start(const Column& column) {
    adapter_.reset();
    arena_.reset();
    embeddings_.reset();
    prompts_.reset();
    if (base_is_changed_) base_.reset();
    base_is_changed_ = false;
    prompted_ = column.row == nullptr ? &config_ : &column.row->trial->config;
    column_ = column;
  }

  /// uint8 (H, W, 3).
  at::Tensor draw(const Picture& picture) {
    if (column_.kind == "real") {
      const auto real = pipeline::load_and_crop(images_.at(dataset_.dataset_of(picture.sample)) / picture.source,
                                                std::min(picture.width, picture.height));
      return store::to_uint8_image(real.pixels);
    }
    if (column_.kind == "roundtrip") {
      const at::Tensor latent = dataset_.latent(picture.sample).mean.unsqueeze(0).to(device_);
      return store::to_uint8_image(base().vae->decode(latent).squeeze(0).cpu());
    }
    return generate(picture);
  }

 private:
  const model::BaseModel& base() {
    if (!base_) {
      const auto options = model::options_of(config_.base_options, config_.variant, device_);
      base_ = std::make_unique<model::BaseModel>(model::load_base_model(config_.base, options));
      if (config_.noise.rescale_betas_zero_snr) {
        pipeline::force_zero_terminal_snr(*base_, "noise.rescale_betas_zero_snr");
      }
      adapt::merge_into(*base_, config_.base_merge);
    }
    return *base_;
  }

  at::Tensor generate(const Picture& picture) {
    if (!prompts_)
      prompts_ = std::make_unique<pipeline::PromptEncoder>(base(), pipeline::prompt_options(prompted_->caption));
    pipeline::GenerateRequest request;
    request.prompt = prompt_of(*prompted_, dataset_, picture);
    request.negative_prompt = config_.sample.negative_prompt;
    request.seed = config_.sample.seed;
    request.index = picture.sample_id;
    request.width = picture.width;
    request.height = picture.height;
    request.num_inference_steps = config_.sample.num_inference_steps;
    request.guidance_scale = config_.sample.guidance_scale;
    request.sampler = config_.sample.sampler;
    const pipeline::HooksFactory adapted = hooks();
    request.hooks_in_text_encoder = embeddings_ || (adapter_ && adapter_->trains_text_encoder());
    return pipeline::generate(base(), *prompts_, request, adapted).image;
  }

  pipeline::HooksFactory hooks() {
    if (column_.row == nullptr) return nullptr;
    if (column_.row->trial->config.method == "dreambooth") {
      change_base(export_file(*column_.row));
      return nullptr;
    }
    if (column_.row->trial->config.method == "textual_inversion") {
      if (!embeddings_) {
        base_is_changed_ = true;
        embeddings_ =
            std::make_unique<adapt::LoadedEmbeddings>(std::vector{export_file(*column_.row).string()}, base());
      }
      return [this](std::int64_t) { return embeddings_->hooks(); };
    }
    if (!adapter_) read_adapter(export_file(*column_.row), column_.row->trial->config.method);
    return [this](std::int64_t) { return adapter_->hooks(*arena_, adapt::ForwardContext{}); };
  }

  void change_base(const fs::path& file) {
    if (base_is_changed_) return;
    adapt::load_trained_weights(store::read_safetensors(file).tensors, file, base());
    base_is_changed_ = true;
  }

  void read_adapter(const fs::path& file, const std::string& method) {
    if (method == "lora") {
      adapt::LoraFile read = adapt::read_lora(file, adapt::lora_sites(base()), device_);
      adapter_ = std::move(read.lora), arena_ = std::move(read.arena);
    } else {
      adapt::HypernetworkFile read = adapt::read_hypernetwork(file, device_);
      adapter_ = std::move(read.network), arena_ = std::move(read.arena);
    }
  }

  const TrainConfig& config_;
  const data::DatasetMix& dataset_;
  at::Device device_;
  std::vector<fs::path> images_;  ///< of each dataset
  std::unique_ptr<model::BaseModel> base_;
  bool base_is_changed_ = false;  ///< it holds the weights of the column's trial, or its tokenizer the words
  std::unique_ptr<pipeline::PromptEncoder> prompts_;
  std::unique_ptr<adapt::LoadedEmbeddings> embeddings_;  ///< of the column's trial
  std::unique_ptr<adapt::Adapter> adapter_;              ///< of the column's trial
  std::unique_ptr<optim::Arena> arena_;
  const TrainConfig* prompted_ = nullptr;  ///< whose prompts the column is drawn from
  Column column_;
};

/// This rank's share: every size-th picture of each column, so that all ranks load each trial once.
void draw_share(const Grid& grid, const std::vector<Column>& columns, const std::vector<Picture>& pictures,
                std::int64_t missing, Painter& painter, const comm::Communicator& comm) {
  const auto size = static_cast<std::size_t>(comm.size());
  ProgressBar bar("pictures", missing, "pictures", comm.rank() == 0 && missing > 0);
  std::int64_t done = 0;
  for (const Column& column : columns) {
    painter.start(column);
    for (std::size_t i = static_cast<std::size_t>(comm.rank()); i < pictures.size(); i += size) {
      if (train::StopSignals::received() != 0) return;
      const fs::path file = picture_file(grid, column, pictures[i]);
      if (fs::exists(file)) continue;
      store::write_png(file, painter.draw(pictures[i]), {{"caption", pictures[i].caption}});
      done = std::min(done + comm.size(), missing);
      bar.update(done, column.name);
    }
  }
  bar.finish();
}

void write_index(const Grid& grid, const std::vector<Column>& columns, const std::vector<Picture>& pictures,
                 const TrainConfig& config, const data::DatasetMix& dataset, const json& settings) {
  json column_list = json::array(), images = json::array();
  for (const Column& column : columns) {
    json entry{{"name", column.name}, {"kind", column.kind}};
    if (column.row != nullptr) entry["trial"] = column.row->trial->number;
    column_list.push_back(entry);
  }
  for (const Picture& picture : pictures) {
    images.push_back({{"sample_id", picture.sample_id},
                      {"split", picture.split},
                      {"caption", picture.caption},
                      {"prompt", prompt_of(config, dataset, picture)},
                      {"source", picture.source},
                      {"width", picture.width},
                      {"height", picture.height}});
  }
  store::write_json(pictures_folder(grid) / "index.json", {{"format", "ldmtune-pictures"},
                                                           {"version", 1},
                                                           {"settings", settings},
                                                           {"columns", column_list},
                                                           {"images", images}});
}

}  // namespace

ExitCode draw_pictures(const Grid& grid, const std::vector<ResultRow>& rows, comm::Communicator& comm) {
  const bool first_rank = comm.rank() == 0;
  const std::vector<const ResultRow*> drawable =
      best_of(drawable_rows(rows, first_rank), winner(rows), grid.sweep.picture_trials);
  if (grid.sweep.pictures == 0 || drawable.empty()) return ExitCode::done;
  const TrainConfig& config = drawable.front()->trial->config;
  const data::DatasetMix dataset(config.data, /*verify_below=*/0);
  const std::vector<Picture> pictures = choose_pictures(dataset, grid.sweep.pictures);
  const std::vector<Column> columns = columns_of(drawable, first_rank);
  const std::int64_t missing =
      std::stoll(pipeline::root_gives(comm, [&] { return std::to_string(prepare_folders(grid, columns, pictures)); }));
  const train::StopSignals signals;
  pipeline::run_together(comm, [&] {
    const at::NoGradGuard no_grad;
    Painter painter(config, dataset, pipeline::choose_device(config.train.device, comm));
    draw_share(grid, columns, pictures, missing, painter, comm);
  });
  if (comm.any(train::StopSignals::received() != 0)) return ExitCode::interrupted;
  pipeline::root_gives(comm, [&] {
    write_index(grid, columns, pictures, config, dataset, drawing_settings(config, drawable.front()->state.result));
    return std::string();
  });
  return ExitCode::done;
}

}  // namespace ldmtune::sweep
