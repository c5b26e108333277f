#include "train/synthetic_data.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "data/latent_dataset.h"
#include "model/base_model.h"
#include "store/files.h"
#include "train/micro_batch.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

/// The autoencoder alone: its hash and the size of its latents are what a dataset must agree with.
model::BaseModel load_autoencoder(const TrainConfig& config) {
  model::BaseModelOptions options = model::options_of(config.base_options, config.variant, at::kCPU);
  options.unet = options.text = false;
  return model::load_base_model(config.base, options);
}

store::SampleRecord record_of(std::uint64_t id, std::int32_t size) {
  store::SampleRecord record;
  record.sample_id = id;
  record.image_sha256[0] = static_cast<std::uint8_t>(id + 1);
  record.original_size = {size, size};
  record.crop = {0, 0, size, size};
  return record;
}

}  // namespace

SyntheticData::SyntheticData() {
  std::string name = (fs::temp_directory_path() / "ldmtune-synthetic-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) fail(name, ": cannot be made; is the folder for temporary files (TMPDIR) full?");
  folder_ = name;
}

SyntheticData::~SyntheticData() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void SyntheticData::write(const TrainConfig& config, std::int64_t resolution, std::int64_t latent_side,
                          const std::string& caption) const {
  const model::BaseModel base = load_autoencoder(config);
  const std::int64_t factor = base.vae->downscale_factor();
  if (resolution == 0) resolution = latent_side * factor;
  if (resolution < factor || resolution > 8192 || resolution % factor != 0) {
    fail_input("option resolution: expected a multiple of ", factor, " (the VAE's factor) up to 8192, found ",
               resolution);
  }
  const auto size = static_cast<std::int32_t>(resolution);
  const std::int64_t side = resolution / factor;
  store::BucketRows rows;
  std::vector<at::Tensor> means;
  std::vector<data::Caption> captions;
  for (std::uint64_t id = 0; id < kSamples; ++id) {
    rows.records.push_back(record_of(id, size));
    means.push_back(normal_tensor({0, Purpose::noise, 0, id}, {base.vae->latent_channels(), side, side}));
    captions.push_back({id, "synthetic", caption});
  }
  rows.latent_mean = at::stack(means).div_(base.vae->scaling_factor()).to(at::kHalf);
  rows.latent_std = at::zeros_like(rows.latent_mean);
  const char* part = "part-00000.h5";
  store::write_latent_part(folder_ / part, {{{size, size}, rows}});
  data::DatasetIndex index;
  index.parts = {{part, store::sha256_file(folder_ / part), kSamples}};
  index.base_sha256 = base.vae_sha256;
  index.vae_sha256 = base.vae_sha256;
  index.scaling_factor = base.vae->scaling_factor();
  index.latent_channels = base.vae->latent_channels();
  index.buckets = {{size, size}};
  index.captions_sha256 = data::write_captions(folder_, captions);
  data::write_dataset_index(folder_, index);
}

}  // namespace ldmtune::train
