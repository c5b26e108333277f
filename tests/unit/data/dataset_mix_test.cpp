#include "data/dataset_mix.h"

#include <algorithm>
#include <set>

#include "data_fixture.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

using store::BucketRows;
using store::BucketSize;
using store::Split;
using Samples = std::vector<std::vector<std::size_t>>;

const BucketSize kSquare{64, 64}, kWide{96, 64}, kTall{64, 96};

struct Sample {
  BucketSize size;
  int image = 0;  // decides image_sha256 and the latent's value
  Split split = Split::train;
  std::uint64_t repeats = 1;
  bool flipped = false;
};

class Mix : public FolderTest {
 protected:
  /// A dataset whose samples have the ids 0, 1 ... in this order.
  std::filesystem::path dataset(const std::string& name, const std::vector<Sample>& samples, char vae = 'b',
                                std::int64_t factor = 8) const {
    const std::filesystem::path folder = folder_ / name;
    std::filesystem::create_directories(folder);
    std::map<BucketSize, BucketRows> buckets;
    std::map<BucketSize, std::vector<at::Tensor>> latents;
    DatasetIndex index;
    std::vector<Caption> captions;
    for (std::uint64_t id = 0; id < samples.size(); ++id) {
      const Sample& sample = samples[id];
      store::SampleRecord record;
      record.sample_id = id;
      record.image_sha256[0] = static_cast<std::uint8_t>(sample.image);
      record.variant = sample.flipped;
      record.split = sample.split;
      if (buckets[sample.size].records.empty()) index.buckets.push_back(sample.size);
      buckets[sample.size].records.push_back(record);
      latents[sample.size].push_back(
          at::full({4, sample.size.height / factor, sample.size.width / factor}, sample.image, at::kHalf));
      captions.push_back({id, cat(sample.image, ".png"), cat(name, " ", id), sample.repeats});
    }
    for (auto& [size, rows] : buckets) {
      rows.latent_mean = at::stack(latents[size]);
      rows.latent_std = at::zeros_like(rows.latent_mean);
    }
    store::write_latent_part(folder / "part-00000.h5", buckets);
    index.parts = {{"part-00000.h5", store::sha256_file(folder / "part-00000.h5"), samples.size()}};
    index.base_sha256 = std::string(64, 'a');
    index.vae_sha256 = std::string(64, vae);
    index.captions_sha256 = write_captions(folder, captions);
    write_dataset_index(folder, index);
    return folder;
  }
  static std::string open_error(const PathList& folders) {
    return error_of([&] { const DatasetMix mix(folders); });
  }
};

TEST_F(Mix, OneDatasetIsItself) {
  const auto folder = dataset("one", {{kWide, 1}, {kSquare, 2}, {kSquare, 3, Split::validation}, {kSquare, 4}});
  const LatentDataset alone(folder);
  const DatasetMix mix(folder);
  EXPECT_EQ(mix.sha256(), alone.sha256());
  EXPECT_EQ(datasets_sha256(folder), alone.sha256());
  EXPECT_EQ(mix.buckets(), alone.index().buckets);
  EXPECT_EQ(mix.by_bucket(Split::train), alone.by_bucket(Split::train));
  const TrainingRows rows = mix.training_rows();
  EXPECT_EQ(rows.samples, alone.by_bucket(Split::train));
  EXPECT_EQ(rows.stream.rows, (std::vector<std::vector<std::uint32_t>>{{1}, {2}}));
  EXPECT_EQ(rows.per_pass(), 3.0);
  EXPECT_EQ(mix.sample_key(3), 3u);
}

TEST_F(Mix, BucketsOfOneSizeBecomeOne) {
  const auto a = dataset("a", {{kWide, 1}, {kSquare, 2}, {kSquare, 3, Split::validation}});
  const auto b = dataset("b", {{kSquare, 11, Split::train, 2}, {kTall, 12}, {kSquare, 13, Split::test}});
  const DatasetMix mix(PathList({a, b}));
  EXPECT_EQ(mix.buckets(), (std::vector<BucketSize>{kWide, kSquare, kTall}));
  ASSERT_EQ(mix.size(), 6u);
  EXPECT_EQ(mix.by_bucket(Split::train), (Samples{{0}, {1, 3}, {4}}));
  EXPECT_EQ(mix.by_bucket(Split::validation), (Samples{{}, {2}, {}}));
  EXPECT_EQ(mix.by_bucket(Split::test), (Samples{{}, {5}, {}}));
  const TrainingRows rows = mix.training_rows(0, 0, {1, 0.5});
  EXPECT_EQ(rows.samples, (Samples{{0}, {1, 3, 3}, {4}}));
  EXPECT_EQ(rows.stream.rows, (std::vector<std::vector<std::uint32_t>>{{1, 0}, {1, 2}, {0, 1}}));
  EXPECT_EQ(rows.count(), 5u);
  EXPECT_EQ(rows.per_pass(), 2 + 0.5 * 3);
  EXPECT_EQ(mix.dataset_of(4), 1u);
  EXPECT_EQ(mix.record(4).sample_id, 1u);
  EXPECT_EQ(mix.sample_key(4), 1'000'000'000'001u);
  EXPECT_EQ(mix.caption(4), "b 1");
  EXPECT_EQ(mix.source(4), "12.png");
  EXPECT_EQ(mix.bucket(4), kTall);
  EXPECT_EQ(mix.latent(4).mean.mean().item<double>(), 12);
  EXPECT_EQ(mix.name(), a.string() + ", " + b.string());
}

TEST_F(Mix, ItsHashIsThatOfTheListInOrder) {
  const auto a = dataset("a", {{kSquare, 1}}), b = dataset("b", {{kSquare, 2}});
  const DatasetMix mix(PathList({a, b}));
  EXPECT_EQ(mix.sha256(), datasets_sha256(PathList({a, b})));
  EXPECT_NE(mix.sha256(), datasets_sha256(PathList({b, a})));
  EXPECT_NE(mix.sha256(), datasets_sha256(a));
  EXPECT_EQ(datasets_sha256(PathList({a, folder_ / "none"})), "");
}

TEST_F(Mix, SubsetsAreNestedAndHoldWholeImages) {
  const auto a = dataset("a", {{kWide, 1}, {kWide, 1, Split::train, 1, true}, {kSquare, 2}, {kSquare, 3}});
  const auto b = dataset("b", {{kSquare, 4}, {kSquare, 3}, {kWide, 5, Split::validation}, {kWide, 6}});
  const DatasetMix mix(PathList({a, b}));
  const auto images = [&](std::uint64_t n, std::uint64_t seed) {
    std::set<int> found;
    for (const auto& bucket : mix.training_rows(n, seed).samples) {
      EXPECT_TRUE(std::is_sorted(bucket.begin(), bucket.end()));
      for (const std::size_t sample : bucket) found.insert(mix.record(sample).image_sha256[0]);
      for (const int image : {1, 3}) {  // both variants, both datasets
        const auto has = [&](std::size_t sample) { return mix.record(sample).image_sha256[0] == image; };
        EXPECT_NE(std::count_if(bucket.begin(), bucket.end(), has), 1) << image;
      }
    }
    EXPECT_FALSE(found.count(5)) << "held out";
    return found;
  };
  std::set<int> before;
  for (std::uint64_t n = 1; n <= 5; ++n) {
    const auto now = images(n, 5);
    EXPECT_EQ(now.size(), n);
    EXPECT_TRUE(std::includes(now.begin(), now.end(), before.begin(), before.end())) << n;
    before = now;
  }
  EXPECT_EQ(mix.training_rows(0, 5).samples, mix.by_bucket(Split::train));
  std::set<std::set<int>> distinct;
  for (std::uint64_t seed = 0; seed < 20; ++seed) distinct.insert(images(2, seed));
  EXPECT_GT(distinct.size(), 3u);
  expect_says(error_of([&] { mix.training_rows(6, 5); }), {"data.subset", "at most the 5", "found 6"});
}

TEST_F(Mix, RepeatedImagesStandInTheTrainingListAsOftenAndAreMeasuredOnce) {
  const DatasetMix mix(dataset("a", {{kSquare, 1}, {kSquare, 2, Split::train, 3}, {kSquare, 3}}));
  EXPECT_EQ(mix.training_rows().samples, (Samples{{0, 1, 1, 1, 2}}));
  EXPECT_EQ(mix.by_bucket(Split::train), (Samples{{0, 1, 2}}));
}

TEST_F(Mix, AWeightOfZeroLeavesADatasetOut) {
  const auto a = dataset("a", {{kSquare, 1}, {kSquare, 2}}), b = dataset("b", {{kSquare, 3}, {kSquare, 4}});
  const DatasetMix mix(PathList({a, b}));
  EXPECT_EQ(mix.training_rows(0, 0, {0, 2}).samples, (Samples{{2, 3}}));
  EXPECT_EQ(mix.training_rows(0, 0, {0, 0}).count(), 0u);
  expect_says(error_of([&] { mix.training_rows(3, 0, {0, 2}); }), {"data.subset", "at most the 2"});
}

TEST_F(Mix, WeightsMustFit) {
  const auto a = dataset("a", {{kSquare, 1}}), b = dataset("b", {{kSquare, 2}});
  const DatasetMix mix(PathList({a, b}));
  expect_says(error_of([&] { mix.training_rows(0, 0, {1}); }), {"data.weights", "each of the 2", "found 1"});
  expect_says(error_of([&] { mix.training_rows(0, 0, {1, -1}); }), {"data.weights", "found -1"});
  expect_says(error_of([&] { mix.training_rows(0, 0, {1e-7, 1}); }), {"data.weights", "0.000001", "found 1e-07"});
  expect_says(error_of([&] { mix.training_rows(0, 0, {1001, 1}); }), {"data.weights", "1000", "found 1001"});
}

TEST_F(Mix, AnImageMustNotTrainInOneAndBeHeldOutInAnother) {
  const auto a = dataset("a", {{kSquare, 1}, {kSquare, 2, Split::validation}});
  const auto b = dataset("b", {{kWide, 9}, {kWide, 2}});
  expect_says(open_error(PathList({a, b})),
              {b.string(), "2.png", "train split", "validation split of " + a.string(), "--validation_images 0"});
  const auto c = dataset("c", {{kWide, 9}, {kWide, 2, Split::test}});
  expect_says(open_error(PathList({a, c})), {"test split", "validation split"});
  const auto d = dataset("d", {{kWide, 1}, {kWide, 2, Split::validation}});
  EXPECT_EQ(open_error(PathList({a, d})), "accepted") << "the same split in both";
}

TEST_F(Mix, DatasetsMustFitEachOther) {
  const auto a = dataset("a", {{kSquare, 1}});
  expect_says(open_error(PathList({a, a})), {a.string(), "each dataset once", "data.weights"});
  expect_says(open_error(PathList({a, dataset("vae", {{kSquare, 2}}, 'c')})), {"vae", "another VAE (cccccccccccc)"});
  const auto finer = dataset("finer", {{kWide, 3}, {kSquare, 2}}, 'b', 4);
  expect_says(open_error(PathList({a, finer})), {"finer", "bucket 64x64", "[4, 8, 8]", "[4, 16, 16]"});
  expect_says(open_error(PathList({a, folder_ / "none"})), {"none", "index.json"});
  expect_says(open_error(PathList()), {"option data"});
}

}  // namespace
}  // namespace ldmtune::data
