#include "data/latent_dataset.h"

#include <nlohmann/json.hpp>

#include "data_fixture.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

using store::BucketRows;
using store::BucketSize;
using store::Split;

const BucketSize kSquare{64, 64}, kWide{96, 64};

// The latent of a sample says which it is.
BucketRows rows_of(const BucketSize& size, const std::vector<std::uint64_t>& ids, std::int64_t channels = 4) {
  BucketRows rows;
  const auto count = static_cast<std::int64_t>(ids.size());
  rows.latent_mean = at::zeros({count, channels, size.height / 8, size.width / 8}, at::kHalf);
  rows.latent_std = at::full_like(rows.latent_mean, 0.25);
  for (std::int64_t row = 0; row < count; ++row) {
    const std::uint64_t id = ids[static_cast<std::size_t>(row)];
    store::SampleRecord record;
    record.sample_id = id;
    record.image_sha256[0] = static_cast<std::uint8_t>(id / 2);  // ids 2i, 2i + 1 are an image and its mirror image
    record.variant = id % 2;
    record.original_size = {size.width, size.height};
    record.crop = {0, 0, size.width, size.height};
    record.split = id / 2 == 3 ? Split::validation : id / 2 == 4 ? Split::test : Split::train;
    rows.records.push_back(record);
    rows.latent_mean.select(0, row).fill_(static_cast<double>(id));
  }
  return rows;
}

class Dataset : public FolderTest {
 protected:
  // Two parts, two buckets, sample ids out of order between parts: 0 .. 15, of images 0 .. 7.
  void SetUp() override {
    FolderTest::SetUp();
    write_part("part-00000.h5", {{kSquare, rows_of(kSquare, {0, 1, 6, 7, 12, 13})}, {kWide, rows_of(kWide, {4, 5})}});
    write_part("part-00001.h5", {{kSquare, rows_of(kSquare, {2, 3, 10, 11})}, {kWide, rows_of(kWide, {8, 9, 14, 15})}});
    for (std::uint64_t id = 0; id < 16; ++id) captions_.push_back({id, cat(id / 2, ".png"), cat("caption ", id)});
    index_.base_sha256 = std::string(64, 'a');
    index_.vae_sha256 = std::string(64, 'b');
    index_.buckets = {kWide, kSquare};
    write_all();
  }

  void write_part(const std::string& name, const std::map<BucketSize, BucketRows>& buckets) {
    store::write_latent_part(folder_ / name, buckets);
    std::uint64_t samples = 0;
    for (const auto& [size, rows] : buckets) samples += rows.records.size();
    std::erase_if(index_.parts, [&](const DatasetIndex::Part& part) { return part.file == name; });
    index_.parts.push_back({name, store::sha256_file(folder_ / name), samples});
  }

  void write_all() {
    index_.captions_sha256 = write_captions(folder_, captions_);
    write_dataset_index(folder_, index_);
  }

  std::string open_error(std::uint64_t verify_below = std::uint64_t{1} << 30) const {
    return error_of([&] { LatentDataset(folder_, verify_below); });
  }

  // The error after one key of index.json was changed.
  std::string index_error(const std::string& pointer, const nlohmann::json& value) const {
    const nlohmann::json good = store::read_json(folder_ / "index.json");
    nlohmann::json bad = good;
    bad[nlohmann::json::json_pointer(pointer)] = value;
    store::write_json(folder_ / "index.json", bad);
    std::string message = open_error();
    store::write_json(folder_ / "index.json", good);
    return message;
  }

  DatasetIndex index_;
  std::vector<Caption> captions_;
};

TEST_F(Dataset, SamplesAreInOrderOfTheirIds) {
  const LatentDataset dataset(folder_);
  ASSERT_EQ(dataset.size(), 16u);
  for (std::size_t sample = 0; sample < 16; ++sample) {
    EXPECT_EQ(dataset.record(sample).sample_id, sample);
    EXPECT_EQ(dataset.caption(sample), cat("caption ", sample));
    const SampleLatent latent = dataset.latent(sample);
    const bool is_wide = sample == 4 || sample == 5 || sample == 8 || sample == 9 || sample >= 14;
    EXPECT_EQ(dataset.bucket(sample), is_wide ? kWide : kSquare) << sample;
    EXPECT_EQ(latent.mean.sizes(), at::IntArrayRef({4, 8, is_wide ? 12 : 8})) << sample;
    EXPECT_EQ(latent.mean.scalar_type(), at::kFloat);
    EXPECT_TRUE(at::equal(latent.mean, at::full_like(latent.mean, static_cast<double>(sample)))) << sample;
    EXPECT_TRUE(at::equal(latent.std, at::full_like(latent.mean, 0.25)));
  }
  EXPECT_EQ(dataset.sha256(), store::sha256_file(folder_ / "index.json"));
}

TEST_F(Dataset, IndexReadsBack) {
  const DatasetIndex read = read_dataset_index(folder_);
  ASSERT_EQ(read.parts.size(), 2u);
  EXPECT_EQ(read.parts[1].file, "part-00001.h5");
  EXPECT_EQ(read.parts[1].sha256, index_.parts[1].sha256);
  EXPECT_EQ(read.parts[1].samples, 8u);
  EXPECT_EQ(read.vae_sha256, index_.vae_sha256);
  EXPECT_EQ(read.scaling_factor, 0.18215);
  EXPECT_EQ(read.buckets, index_.buckets);
  EXPECT_EQ(read.captions_sha256, index_.captions_sha256);
}

TEST_F(Dataset, SplitsByBucket) {
  using Samples = std::vector<std::vector<std::size_t>>;
  const LatentDataset dataset(folder_);
  EXPECT_EQ(dataset.by_bucket(Split::train), (Samples{{4, 5, 14, 15}, {0, 1, 2, 3, 10, 11, 12, 13}}));
  EXPECT_EQ(dataset.by_bucket(Split::validation), (Samples{{}, {6, 7}}));
  EXPECT_EQ(dataset.by_bucket(Split::test), (Samples{{8, 9}, {}}));
}

TEST_F(Dataset, DamagedPartsAreRefused) {
  std::fstream file(folder_ / "part-00001.h5", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(folder_ / "part-00001.h5") / 2));
  file.put('\x5A');
  file.close();
  expect_says(open_error(), {"part-00001.h5", "expected sha256", "copy or prepare"});
}

TEST_F(Dataset, MissingPartsAreRefused) {
  std::filesystem::remove(folder_ / "part-00000.h5");
  expect_says(open_error(), {"part-00000.h5", "no such file"});
  std::filesystem::remove(folder_ / "index.json");
  expect_says(open_error(), {folder_.string(), "index.json", "ldmtune prepare"});
}

TEST_F(Dataset, IndexAndPartsMustAgree) {
  expect_says(index_error("/parts/0/samples", 7), {"part-00000.h5", "expected 7 samples", "found 8"});
  expect_says(index_error("/buckets", {"64x64"}), {"part-00000.h5", "bucket 96x64", "index.json does not list"});
  expect_says(index_error("/buckets", {"64x64", "96x64", "64x96"}), {"index.json", "64x96", "no part holds"});
  expect_says(index_error("/latent_channels", 16), {"part-00000.h5", "(2, 16, h, w)"});
  index_.parts[0].sha256 = std::string(64, '0');
  write_all();
  expect_says(open_error(), {"part-00000.h5", "expected sha256 0000"});
  EXPECT_EQ(open_error(1000), "accepted") << "large datasets are verified when they are read";
}

TEST_F(Dataset, LatentsOfABucketHaveOneShape) {
  write_part("part-00001.h5", {{kSquare, rows_of({128, 128}, {2, 3})}});
  std::erase_if(captions_, [](const Caption& c) { return c.sample_id >= 8 && c.sample_id != 12 && c.sample_id != 13; });
  write_all();
  expect_says(open_error(), {"part-00001.h5", "bucket 64x64", "prepare the dataset again"});
}

TEST_F(Dataset, SampleIdsAreUnique) {
  write_part("part-00001.h5", {{kSquare, rows_of(kSquare, {2, 3, 5})}});
  write_all();
  expect_says(open_error(), {"part-0000", "sample_id 5", "prepare the dataset again"});
}

TEST_F(Dataset, EverySampleHasOneCaption) {
  captions_.pop_back();
  write_all();
  expect_says(open_error(), {"captions.jsonl", "sample_id 15", "part-00001.h5", "captions_only"});
  captions_.push_back({15, "7.png", ""});
  captions_.push_back({16, "8.png", ""});
  write_all();
  expect_says(open_error(), {"captions.jsonl", "sample_id 16", "which no part holds"});
  captions_.back().sample_id = 15;
  write_all();
  expect_says(open_error(), {"captions.jsonl:17", "sample_id 15", "already"});
}

TEST_F(Dataset, EditedCaptionsNeedTheIndexToFollow) {
  captions_[3].text = "mended";
  const std::string sha256 = write_captions(folder_, captions_);
  expect_says(open_error(), {"captions.jsonl", "expected sha256", "captions_only"});
  index_.captions_sha256 = sha256;
  write_dataset_index(folder_, index_);
  EXPECT_EQ(LatentDataset(folder_).caption(3), "mended");
}

TEST_F(Dataset, BadIndexesAreNamedByKey) {
  expect_says(index_error("/format", "webdataset"), {"index.json", "\"format\"", "found \"webdataset\""});
  expect_says(index_error("/version", 2), {"\"version\"", "expected 1, found 2"});
  expect_says(index_error("/parts", nlohmann::json::array()), {"\"parts\"", "at least one"});
  expect_says(index_error("/parts/1/file", "part-00000.h5"), {"parts[1]", "listed twice"});
  for (const char* name : {"../part-00000.h5", "/part-00000.h5", "", "..", "a/b.h5"}) {
    expect_says(index_error("/parts/0/file", name), {"parts[0]", "\"file\"", "in the folder"});
  }
  expect_says(index_error("/parts/0/samples", -1), {"parts[0]", "\"samples\"", "found -1"});
  expect_says(index_error("/parts/0/sha256", "ABC"), {"\"sha256\"", "64 lower-case hex digits"});
  expect_says(index_error("/scaling_factor", 0), {"\"scaling_factor\"", "above 0"});
  expect_says(index_error("/scaling_factor", "x"), {"\"scaling_factor\"", "expected a number"});
  expect_says(index_error("/latent_channels", 0), {"\"latent_channels\""});
  expect_says(index_error("/buckets", {"64by64"}), {"\"buckets\"", "64by64"});
  expect_says(index_error("/buckets", {"64x64", "64x64"}), {"\"buckets\"", "each once"});
  expect_says(index_error("/vae_sha256", nullptr), {"\"vae_sha256\"", "expected a string"});
}

TEST_F(Dataset, BadCaptionsAreNamedByLine) {
  write("captions.jsonl", "{\"sample_id\": 0, \"source\": \"a\", \"text\": \"x\"}\n{\"sample_id\": -1}\n");
  expect_says(error_of([this] { read_captions(folder_); }), {"captions.jsonl:2", "\"sample_id\"", "found -1"});
  write("captions.jsonl", "{\"sample_id\": 0, \"source\": \"a\"}\n");
  expect_says(error_of([this] { read_captions(folder_); }), {"captions.jsonl:1", "\"text\"", "found none"});
  write("captions.jsonl", "{\"sample_id\": 0, \"source\": \"a\", \"text\": \"\\u0000\"}\n");
  expect_says(error_of([this] { read_captions(folder_); }), {"captions.jsonl:1", "NUL"});
  expect_says(error_of([this] { write_captions(folder_, {{0, "a.png", "\xFF"}}); }), {"a.png", "UTF-8"});
}

}  // namespace
}  // namespace ldmtune::data
