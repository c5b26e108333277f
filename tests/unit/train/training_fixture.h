#pragma once
// A tiny dataset of random latents on the embedded base, for tests of steps and validation.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "comm/communicator.h"
#include "core/config.h"
#include "core/random.h"
#include "data/dataset_mix.h"
#include "model/base_model.h"
#include "store/files.h"
#include "train/micro_batch.h"
#include "train/trial.h"

namespace ldmtune::train {

class TrainingTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kSamples = 7;

  static void SetUpTestSuite() {
    base = new model::BaseModel(model::load_base_model(LDMTUNE_SOURCE_DIR "/datasets/emoji-base"));
    folder = std::filesystem::temp_directory_path() / ("ldmtune-train-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder);
    write_dataset();
    dataset = new data::DatasetMix(folder);
  }
  static void TearDownTestSuite() {
    delete dataset;
    delete base;
    std::filesystem::remove_all(folder);
  }

  /// Two of the seven samples are held out.
  static void write_dataset() {
    store::BucketRows rows;
    std::vector<at::Tensor> means;
    std::vector<data::Caption> captions;
    for (std::uint64_t id = 0; id < kSamples; ++id) {
      store::SampleRecord record;
      record.sample_id = id;
      record.image_sha256[0] = static_cast<std::uint8_t>(40 * id + 1);
      record.original_size = {64, 64};
      record.crop = {0, 0, 64, 64};
      record.split = id >= 5 ? store::Split::validation : store::Split::train;
      rows.records.push_back(record);
      means.push_back(normal_tensor({99, Purpose::noise, 0, id}, {4, 16, 16}));
      captions.push_back({id, "image" + std::to_string(id) + ".png", id % 2 ? "rocket, pencil" : "cat face, pencil"});
    }
    rows.latent_mean = at::stack(means).to(at::kHalf);
    rows.latent_std = at::full_like(rows.latent_mean, 0.1);
    store::write_latent_part(folder / "part-00000.h5", {{{64, 64}, rows}});
    data::DatasetIndex index;
    index.parts = {{"part-00000.h5", store::sha256_file(folder / "part-00000.h5"), kSamples}};
    index.base_sha256 = base->sha256;
    index.vae_sha256 = base->vae_sha256;
    index.scaling_factor = base->vae->scaling_factor();
    index.buckets = {{64, 64}};
    index.captions_sha256 = data::write_captions(folder, captions);
    data::write_dataset_index(folder, index);
  }

  void SetUp() override {
    config.base = base->folder;
    config.data = folder;
    config.train.global_batch_size = 4;
    config.train.micro_batch_size = 1;
    config.optim.learning_rate = "1e-2";
    config.hypernetwork.activation = "relu";
    config.hypernetwork.weight_init = "XavierNormal";
    schedule = std::make_unique<diffusion::NoiseSchedule>(base->scheduler_config);
    prompts = std::make_unique<pipeline::PromptEncoder>(*base, 1);
    comm = comm::self();
    remake_source();
  }
  void remake_source() {
    source = std::make_unique<BatchSource>(*dataset, dataset->training_rows(), *schedule, *prompts, config, at::kCPU);
  }
  Trial trial(std::uint64_t seed, std::vector<double> structure = {1, 2, 1}) {
    TrainConfig own = config;
    own.train.seed = seed;
    own.hypernetwork.layer_structure = std::move(structure);
    return make_trial(own, *base, *source, 10, *comm, at::kCPU);
  }

  static inline model::BaseModel* base = nullptr;
  static inline data::DatasetMix* dataset = nullptr;
  static inline std::filesystem::path folder;
  TrainConfig config;
  std::unique_ptr<diffusion::NoiseSchedule> schedule;
  std::unique_ptr<pipeline::PromptEncoder> prompts;
  std::unique_ptr<comm::Communicator> comm;
  std::unique_ptr<BatchSource> source;
};

}  // namespace ldmtune::train
