#include "pipeline/encode.h"

#include "data/latent_dataset.h"
#include "pipeline/dataset_writer.h"
#include "pipeline/scan.h"
#include "pipeline/stop_signals.h"
#include "pipeline_fixture.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::pipeline {
namespace {

namespace fs = std::filesystem;

class PrepareDataset : public PipelineTest {
 protected:
  PrepareDataset() {
    fs::create_directory(folder_ / "images");
    config_.base = base_folder();
    config_.images = folder_ / "images";
    config_.output = folder_ / "set";
    config_.resolution = 32;
  }

  /// Pictures 00 cat.png, 01 cat.png ... of different sizes.
  void add_pictures(int count) const {
    for (int i = 0; i < count; ++i) {
      write_picture(cat("images/", i / 10, i % 10, " cat.png"), 32 + i, 32 + 3 * (i % 4), i);
    }
  }
  PrepareResult prepare() const { return prepare_dataset(config_, *comm::self()); }
  /// Names of everything in the test's folder, but the images.
  std::vector<std::string> left_behind() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename() != "images") names.push_back(entry.path().filename());
    }
    return names;
  }

  PrepareConfig config_;
};

TEST_F(PrepareDataset, WritesWhatTheVaeSaysOfEachImage) {
  add_pictures(9);
  config_.batch_size = 2;
  config_.images_per_part = 5;
  const PrepareResult result = prepare();
  EXPECT_EQ(result.images, 9u);
  EXPECT_EQ(result.samples, 9u);
  const data::LatentDataset dataset(config_.output);
  ASSERT_EQ(dataset.size(), 9u);
  ASSERT_EQ(dataset.index().parts.size(), 2u);
  EXPECT_EQ(dataset.index().parts[0].samples, 5u);
  EXPECT_EQ(dataset.index().vae_sha256, base().vae_sha256);
  EXPECT_EQ(dataset.index().base_sha256, base().sha256);
  EXPECT_DOUBLE_EQ(dataset.index().scaling_factor, base().vae->scaling_factor());
  for (const std::size_t sample : {std::size_t{0}, std::size_t{4}, std::size_t{8}}) {
    EXPECT_EQ(dataset.record(sample).sample_id, 2 * sample);
    EXPECT_EQ(dataset.caption(sample), "cat");
    const PreparedImage image = load_and_crop(folder_ / "images" / cat("0", sample, " cat.png"), 32);
    EXPECT_EQ(dataset.record(sample).crop, image.crop);
    EXPECT_EQ(dataset.record(sample).original_size, image.original_size);
    const auto posterior = base().vae->encode(image.pixels.unsqueeze(0));
    const data::SampleLatent latent = dataset.latent(sample);
    EXPECT_LT((latent.mean - posterior.mean[0]).abs().max().item<float>(), 5e-3);  // fp16
    EXPECT_LT((latent.std - posterior.stddev[0]).abs().max().item<float>(), 5e-3);
  }
  EXPECT_EQ(read_origin(config_.output).at("resolution"), 32);
}

TEST_F(PrepareDataset, BatchesAndPartsOfOtherImagesDoNotChangeALatent) {
  add_pictures(6);
  config_.batch_size = 4;
  config_.images_per_part = 6;
  prepare();
  const data::LatentDataset one(config_.output);
  config_.images_per_part = 3;  // other neighbours, more padding
  config_.output = folder_ / "other";
  prepare();
  const data::LatentDataset other(config_.output);
  for (std::size_t sample = 0; sample < 6; ++sample) {
    EXPECT_TRUE(at::equal(one.latent(sample).mean, other.latent(sample).mean)) << sample;
  }
}

TEST_F(PrepareDataset, MirrorImagesShareHashAndSplit) {
  add_pictures(8);
  config_.random_flip = true;
  config_.validation_images = 2;
  config_.test_images = 0;
  EXPECT_EQ(prepare().samples, 16u);
  const data::LatentDataset dataset(config_.output);
  ASSERT_EQ(dataset.size(), 16u);
  for (std::size_t sample = 0; sample < 16; sample += 2) {
    const store::SampleRecord& plain = dataset.record(sample);
    const store::SampleRecord& mirrored = dataset.record(sample + 1);
    EXPECT_EQ(mirrored.sample_id, plain.sample_id + 1);
    EXPECT_EQ(plain.variant, 0);
    EXPECT_EQ(mirrored.variant, 1);
    EXPECT_EQ(mirrored.image_sha256, plain.image_sha256);
    EXPECT_EQ(mirrored.split, plain.split);
  }
  EXPECT_EQ(dataset.by_bucket(store::Split::validation).at(0).size(), 4u);
  const PreparedImage image = load_and_crop(folder_ / "images" / "00 cat.png", 32);
  const auto posterior = base().vae->encode(image.pixels.flip(2).unsqueeze(0));
  EXPECT_LT((dataset.latent(1).mean - posterior.mean[0]).abs().max().item<float>(), 5e-3);
}

TEST_F(PrepareDataset, TakesTheBasesOwnSize) {
  add_pictures(1);
  config_.resolution = 0;
  prepare();
  EXPECT_EQ(data::LatentDataset(config_.output).bucket(0), (store::BucketSize{64, 64}));
}

TEST_F(PrepareDataset, ListsEveryUnreadableImageAndLeavesNothing) {
  add_pictures(2);
  write_file("images/bad one.png", "no picture");
  write_file("images/bad two.jpg", "");
  const std::string message = input_error([&] { prepare(); });
  EXPECT_TRUE(contains(message, "2 of 4 images")) << message;
  EXPECT_TRUE(contains(message, "bad one.png") && contains(message, "bad two.jpg")) << message;
  EXPECT_TRUE(contains(message, "--skip_bad")) << message;
  EXPECT_TRUE(left_behind().empty());
  config_.skip_bad = true;
  const PrepareResult result = prepare();
  EXPECT_EQ(result.images, 2u);
  EXPECT_EQ(result.skipped, 2u);
}

TEST_F(PrepareDataset, OnlyKnownConcepts) {
  add_pictures(3);
  write_file("images/metadata.jsonl",
             "{\"file_name\": \"00 cat.png\", \"text\": \"a\", \"known\": false}\n"
             "{\"file_name\": \"01 cat.png\", \"text\": \"b\", \"known\": true}\n"
             "{\"file_name\": \"02 cat.png\", \"text\": \"c\"}\n");
  config_.known_only = true;
  EXPECT_EQ(prepare().images, 1u);
  const data::LatentDataset dataset(config_.output);
  EXPECT_EQ(dataset.caption(0), "b");
  EXPECT_EQ(dataset.record(0).sample_id, 2u);
}

TEST_F(PrepareDataset, RefusesBadInputBeforeWriting) {
  add_pictures(1);
  const auto refused = [&](auto change, const std::string& expected) {
    PrepareConfig bad = config_;
    change(bad);
    const std::string message = input_error([&] { prepare_dataset(bad, *comm::self()); });
    EXPECT_TRUE(contains(message, expected)) << message;
    EXPECT_TRUE(left_behind().empty());
  };
  refused([](PrepareConfig& c) { c.base.clear(); }, "option base is missing");
  refused([](PrepareConfig& c) { c.output.clear(); }, "option output is missing");
  refused([&](PrepareConfig& c) { c.images = folder_ / "none"; }, "none");
  refused([&](PrepareConfig& c) { c.base = folder_ / "images"; }, "images");
  refused([](PrepareConfig& c) { c.resolution = 30; }, "resolution: expected a multiple of 4");
  refused([](PrepareConfig& c) { c.batch_size = 0; }, "batch_size");
  refused([](PrepareConfig& c) { c.validation_images = 1; }, "validation_images");
  refused([](PrepareConfig& c) { c.known_only = true; }, "known_only");
}

TEST_F(PrepareDataset, NamesTheImageWithoutACaption) {
  write_picture("images/0123.png", 32, 32, 1);
  const std::string message = input_error([&] { prepare(); });
  EXPECT_TRUE(contains(message, "0123.png") && contains(message, "caption")) << message;
  EXPECT_TRUE(left_behind().empty());
}

TEST_F(PrepareDataset, WritesOverNothing) {
  add_pictures(1);
  fs::create_directory(config_.output);
  EXPECT_TRUE(contains(input_error([&] { prepare(); }), "is there already"));
  EXPECT_TRUE(fs::is_empty(config_.output));
}

TEST_F(PrepareDataset, CaptionsAreMendedWithoutEncoding) {
  add_pictures(2);
  config_.random_flip = true;
  prepare();
  const std::string part = store::sha256_file(config_.output / "part-00000.h5");
  write_file("images/01 cat.txt", "a black cat");
  PrepareConfig mend;
  mend.output = config_.output;  // the images' folder is known from index.json
  update_captions(mend);
  const data::LatentDataset dataset(config_.output);
  EXPECT_EQ(dataset.caption(0), "cat");
  EXPECT_EQ(dataset.caption(2), "a black cat");
  EXPECT_EQ(dataset.caption(3), "a black cat");
  EXPECT_EQ(store::sha256_file(config_.output / "part-00000.h5"), part);
  EXPECT_EQ(read_origin(config_.output).at("random_flip"), true);

  fs::remove(folder_ / "images" / "00 cat.png");
  const std::string index = store::sha256_file(config_.output / "index.json");
  EXPECT_TRUE(contains(input_error([&] { update_captions(mend); }), "00 cat.png"));
  EXPECT_EQ(store::sha256_file(config_.output / "index.json"), index);
}

TEST_F(PrepareDataset, LatentsBeyondFp16NameTheImageAndLeaveNothing) {
  add_pictures(3);
  config_.base = folder_ / "images" / "base";  // out of the way of left_behind()
  fs::copy(base_folder(), config_.base, fs::copy_options::recursive);
  const fs::path weights = config_.base / "vae" / "diffusion_pytorch_model.safetensors";
  store::SafetensorsFile vae = store::read_safetensors(weights);
  vae.tensors.at("quant_conv.bias") = at::full_like(vae.tensors.at("quant_conv.bias"), 1e5, at::kFloat);
  store::write_safetensors(weights, vae.tensors);
  const std::string message = input_error([&] { prepare(); });
  EXPECT_TRUE(contains(message, "00 cat.png") && contains(message, "fp16")) << message;
  EXPECT_TRUE(left_behind().empty());
}

TEST(StopSignals, BecomeAnErrorWhileWatched) {
  {
    const StopSignals stop;
    EXPECT_NO_THROW(stop.check());
    std::raise(SIGTERM);
    EXPECT_THROW(stop.check(), Error);
  }
  const StopSignals again;
  EXPECT_NO_THROW(again.check());
  std::raise(SIGINT);
  EXPECT_THROW(again.check(), Error);
}

TEST_F(PrepareDataset, FindsEqualFiles) {
  add_pictures(2);
  fs::copy_file(folder_ / "images" / "01 cat.png", folder_ / "images" / "twin.png");
  const auto entries = data::list_images(folder_ / "images");
  const ScanResult scan = scan_images(entries, std::vector<bool>(entries.size(), true), *comm::self());
  EXPECT_EQ(equal_files(scan.images), std::vector<std::string>{"01 cat.png, twin.png"});
}

}  // namespace
}  // namespace ldmtune::pipeline
