#include "cli/inspect_folder.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "cli/inspect_file.h"
#include "cli/inspect_kinds.h"
#include "core/options.h"
#include "data/latent_dataset.h"
#include "diffusion/noise_schedule.h"
#include "model/base_model.h"
#include "pipeline/dataset_writer.h"
#include "store/files.h"
#include "train/checkpoint.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

std::int64_t elements_of(const store::TensorMap& tensors) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.numel();
  return total;
}

std::string describe_dataset(const fs::path& folder) {
  const data::LatentDataset dataset(folder, ~std::uint64_t{0});  // verifies every part
  const data::DatasetIndex& index = dataset.index();
  std::string text = "latent dataset\n";
  const nlohmann::json origin = pipeline::read_origin(folder);
  for (const auto& [key, value] : origin.items()) text += fact(key, value.dump());
  text += fact("parts", cat(index.parts.size(), ", all checksums hold")) + fact("samples", dataset.size());
  std::set<std::array<std::uint8_t, 32>> images;
  for (std::size_t i = 0; i < dataset.size(); ++i) images.insert(dataset.record(i).image_sha256);
  text += fact("images of distinct content", images.size());
  constexpr std::array<const char*, 3> kNames{"train", "validation", "test"};
  for (const store::Split split : {store::Split::train, store::Split::validation, store::Split::test}) {
    const auto rows = dataset.by_bucket(split);
    for (std::size_t bucket = 0; bucket < rows.size(); ++bucket) {
      text += fact(cat(kNames[static_cast<std::size_t>(split)], " ", index.buckets[bucket].name()),
                   cat(rows[bucket].size(), " samples"));
    }
  }
  text += fact("latent channels", index.latent_channels) + fact("scaling factor", format_number(index.scaling_factor));
  text += fact("VAE sha256", index.vae_sha256) + fact("base sha256", index.base_sha256);
  return text + fact("sha256", dataset.sha256());
}

std::string describe_base(const fs::path& folder) {
  const model::BaseModel base = model::load_base_model(folder);
  const diffusion::NoiseSchedule schedule(base.scheduler_config);
  std::string widths;
  for (const std::int64_t width : base.unet->context_widths())
    widths += (widths.empty() ? "" : ", ") + std::to_string(width);
  const std::int64_t pixels = base.unet->sample_size() * base.vae->downscale_factor();
  const std::string family = family_of_width(base.unet->cross_attention_dim());
  std::string text = "base model (diffusers folder)\n" + (family.empty() ? "" : fact("for", family)) +
                     fact("picture size", cat(pixels, "x", pixels, " pixels"));
  text +=
      fact("prediction", schedule.prediction_type() == diffusion::PredictionType::epsilon ? "epsilon" : "v_prediction");
  text += fact("context widths", widths) + fact("tokens a chunk", base.model_max_length);
  text += fact("UNet", cat(elements_of(base.unet->parameters()), " parameters, sha256 ", base.unet_sha256));
  text += fact("text encoder",
               cat(elements_of(base.text_encoder->parameters()), " parameters, sha256 ", base.text_encoder_sha256));
  if (base.text_encoder_2) {
    text += fact("second text encoder", cat(elements_of(base.text_encoder_2->parameters()), " parameters, sha256 ",
                                            base.text_encoder_2_sha256));
  }
  text += fact("VAE", cat(elements_of(base.vae->parameters()), " parameters, ", base.vae->downscale_factor(),
                          "x smaller latents, scaling factor ", format_number(base.vae->scaling_factor()), ", sha256 ",
                          base.vae_sha256));
  return text + fact("sha256", base.sha256);
}

std::string describe_checkpoint(const fs::path& folder) {
  const train::CheckpointState state = train::read_checkpoint_state(folder);  // verifies MANIFEST.json
  std::string text = "checkpoint, all checksums hold\n" + fact("step", state.step) + fact("name", state.adapter_name);
  text += fact("trained on", state.base_name + " (sha256 " + state.base_sha256 + ")") +
          fact("dataset sha256", state.dataset_sha256);
  if (!state.init_sha256.empty()) text += fact("started from a file with sha256", state.init_sha256);
  const auto found = state.config.find("method");
  const std::string method = found == state.config.end() ? "" : found->second;
  for (const auto& [option, value] : state.config) {
    if (option == "method" || option.starts_with(method + ".")) text += fact(option, value);
  }
  return text;
}

std::string describe_run(const fs::path& folder) {
  const bool done = fs::exists(folder / "result.json");
  std::string text = "run folder\n" + fact("finished", done ? "yes" : "no");
  const nlohmann::json result = done ? store::read_json(folder / "result.json") : nlohmann::json::object();
  for (const auto& [key, value] : result.items()) {
    if (value.is_primitive()) text += fact(key, value.dump());
  }
  std::vector<fs::path> checkpoints;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder / "checkpoints", none)) {
    if (entry.is_directory() && entry.path().extension().empty()) checkpoints.push_back(entry.path());
  }
  std::sort(checkpoints.begin(), checkpoints.end());
  for (const fs::path& checkpoint : checkpoints) {
    train::read_checkpoint_state(checkpoint);
    text += fact("checkpoint " + checkpoint.filename().string(), "all checksums hold");
  }
  return text;
}

}  // namespace

std::string describe_folder(const fs::path& folder) {
  if (fs::exists(folder / "MANIFEST.json")) return describe_checkpoint(folder);
  if (fs::exists(folder / "model_index.json") || fs::exists(folder / "unet")) return describe_base(folder);
  if (fs::exists(folder / "config.cfg")) return describe_run(folder);
  if (fs::exists(folder / "index.json")) return describe_dataset(folder);
  fail_input(folder.string(),
             ": expected a dataset (index.json), base model (model_index.json), run (config.cfg) or checkpoint "
             "(MANIFEST.json), found none of them in this folder");
}

}  // namespace ldmtune::cli
