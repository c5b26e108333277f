#include "pipeline/prepare_checks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "model/base_model.h"
#include "pipeline/collective.h"
#include "pipeline/dataset_writer.h"
#include "pipeline/device.h"
#include "pipeline/masks.h"

namespace ldmtune::pipeline {
namespace {

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) fail_input(option, ": expected ", least, " to ", most, ", found ", value);
}

void check_options(const PrepareConfig& config) {
  const auto required = [](const char* option, const std::filesystem::path& value, const char* what) {
    if (value.empty()) fail_input("option ", option, " is missing: give --", option, " ", what);
  };
  required("base", config.base, "FOLDER, the base model whose VAE encodes");
  required("images", config.images, "FOLDER of images with captions");
  required("output", config.output, "FOLDER, the dataset to write");
  check_range("resolution", config.resolution, 0, 8192);
  check_range("batch_size", config.batch_size, 1, 1024);
  check_range("images_per_part", config.images_per_part, 1, 1 << 20);
  check_range("validation_images", config.validation_images, -1, 1 << 30);
  check_range("test_images", config.test_images, -1, 1 << 30);
}

}  // namespace

std::vector<data::ImageEntry> checked_entries(const PrepareConfig& config, comm::Communicator& comm) {
  std::vector<data::ImageEntry> entries;
  run_together(comm, [&] {
    check_options(config);
    if (comm.rank() == 0) PartialFolder::expect_free(config.output);
    entries = without_masks(data::list_images(config.images));
    if (entries.empty()) fail_input(config.images.string(), ": no images (png, jpg, jpeg, webp) in this folder");
    for (const data::ImageEntry& entry : entries) {
      if (entry.text.find_first_not_of(" \t\r\n") != std::string::npos) continue;
      fail_input(entry.file.string(),
                 ": caption missing; give it one in metadata.jsonl, in a .txt or .caption file beside it, "
                 "or in its file name");
    }
    check_masks(entries, parse_mask_source(config.mask));
  });
  return entries;
}

std::vector<bool> images_taken(const std::vector<data::ImageEntry>& entries, const PrepareConfig& config) {
  std::vector<bool> taken(entries.size(), true);
  if (!config.known_only) return taken;
  std::transform(entries.begin(), entries.end(), taken.begin(),
                 [](const auto& entry) { return entry.known.value_or(false); });
  if (std::find(taken.begin(), taken.end(), true) == taken.end()) {
    fail_input("known_only: no line of ", (config.images / "metadata.jsonl").string(), " says \"known\": true");
  }
  return taken;
}

PrepareBase load_prepare_base(const PrepareConfig& config, comm::Communicator& comm) {
  PrepareBase result;
  // Rank 0 alone reads the whole base, for its hash and its native size; the others need the VAE.
  const std::string facts = root_gives(comm, [&] {
    model::BaseModel base = model::load_base_model(config.base, model::options_of(config.base_options, config.variant));
    const std::int64_t factor = base.vae->downscale_factor();
    const std::int64_t resolution = config.resolution ? config.resolution : base.unet->sample_size() * factor;
    if (resolution % factor != 0) {
      fail_input("resolution: expected a multiple of ", factor, " pixels, as the VAE of ", config.base.string(),
                 " needs, found ", resolution);
    }
    return nlohmann::json{{"base", base.sha256}, {"vae", base.vae_sha256}, {"resolution", resolution}}.dump();
  });
  run_together(comm, [&] {
    model::BaseModelOptions options =
        model::options_of(config.base_options, config.variant, choose_device("auto", comm));
    options.unet = options.text = false;
    result.vae = std::move(model::load_base_model(config.base, options).vae);
  });
  const auto parsed = nlohmann::json::parse(facts);
  result.base_sha256 = parsed.at("base");
  result.vae_sha256 = parsed.at("vae");
  result.resolution = parsed.at("resolution");
  return result;
}

void report_bad_images(const ScanResult& scan, const PrepareConfig& config, bool loud) {
  if (!scan.bad.empty() && !config.skip_bad) {
    std::string list;
    for (const std::string& line : scan.bad) list += "\n  " + line;
    fail_input(scan.bad.size(), " of ", scan.bad.size() + scan.images.size(), " images in ", config.images.string(),
               " cannot be read; mend or remove them, or leave them out with --skip_bad:", list);
  }
  if (scan.images.empty()) fail_input(config.images.string(), ": none of its images can be read");
  if (!loud) return;
  for (const std::string& line : scan.bad) LDMTUNE_LOG(warning) << "skipped: " << line;
  constexpr std::size_t kMostLines = 10;
  const std::vector<std::string> equal = equal_files(scan.images);
  for (std::size_t i = 0; i < std::min(equal.size(), kMostLines); ++i) {
    LDMTUNE_LOG(warning) << "images of equal content: " << equal[i];
  }
  if (equal.size() > kMostLines) LDMTUNE_LOG(warning) << "... and " << equal.size() - kMostLines << " more such sets";
}

}  // namespace ldmtune::pipeline
