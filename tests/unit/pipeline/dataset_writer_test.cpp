#include "pipeline/dataset_writer.h"

#include <gtest/gtest.h>

#include "pipeline_fixture.h"
#include "store/files.h"

namespace ldmtune::pipeline {
namespace {

namespace fs = std::filesystem;
using PartialFolderTest = PipelineTest;
using PartWriterTest = PipelineTest;

TEST_F(PartialFolderTest, AppearsWhenCommitted) {
  const fs::path output = folder_ / "deep" / "down" / "set";
  {
    PartialFolder folder(output);
    store::write_text(folder.path() / "a", "1");
    EXPECT_FALSE(fs::exists(output));
    folder.commit();
  }
  EXPECT_TRUE(fs::exists(output / "a"));
  EXPECT_FALSE(fs::exists(output.string() + ".partial"));
}

TEST_F(PartialFolderTest, LeavesNothingBehindOtherwise) {
  {
    PartialFolder folder(folder_ / "deep" / "down" / "set");
    store::write_text(folder.path() / "a", "1");
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(PartialFolderTest, RefusesWhatIsThere) {
  fs::create_directory(folder_ / "set");
  EXPECT_TRUE(contains(input_error([&] { PartialFolder::expect_free(folder_ / "set"); }), "is there already"));
  EXPECT_TRUE(contains(input_error([&] { PartialFolder::expect_free(folder_ / "set/"); }), "is there already"));
  fs::create_directory(folder_ / "other.partial");
  EXPECT_TRUE(contains(input_error([&] { PartialFolder::expect_free(folder_ / "other"); }), "another prepare"));
  EXPECT_THROW(PartialFolder(folder_ / "other"), InputError);
  EXPECT_TRUE(fs::exists(folder_ / "other.partial"));
  write_file("file", "");
  EXPECT_TRUE(contains(input_error([&] { PartialFolder::expect_free(folder_ / "file" / "set"); }), "is no folder"));
  EXPECT_NO_THROW(PartialFolder::expect_free(folder_ / "new" / "set"));
}

std::vector<store::SampleRecord> records(std::uint64_t first, std::uint64_t count) {
  std::vector<store::SampleRecord> made(count);
  for (std::uint64_t i = 0; i < count; ++i) made[i].sample_id = first + i;
  return made;
}

at::Tensor rows(std::int64_t first, std::int64_t count) {
  return at::arange(first, first + count, at::kHalf).view({-1, 1, 1, 1}).expand({count, 4, 2, 2}).contiguous();
}

TEST_F(PartWriterTest, WritesPartsAsTheyFill) {
  const store::BucketSize bucket{16, 16};
  PartWriter writer(folder_, bucket, 3);
  writer.append(records(0, 2), rows(0, 2), rows(10, 2));
  writer.flush();
  EXPECT_TRUE(writer.parts().empty());
  writer.append(records(2, 1), rows(2, 1), rows(12, 1));
  writer.flush();
  writer.append(records(3, 1), rows(3, 1), rows(13, 1));
  writer.flush(true);
  writer.flush(true);
  ASSERT_EQ(writer.parts().size(), 2u);
  EXPECT_EQ(writer.parts()[0].file, "part-00000.h5");
  EXPECT_EQ(writer.parts()[0].samples, 3u);
  EXPECT_EQ(writer.parts()[1].samples, 1u);
  EXPECT_EQ(writer.parts()[1].sha256, store::sha256_file(folder_ / "part-00001.h5"));
  const store::LatentPart part(folder_ / "part-00000.h5");
  EXPECT_EQ(part.records(bucket).at(2).sample_id, 2u);
  EXPECT_TRUE(at::equal(part.read_latent(bucket, 2), at::stack({rows(2, 1)[0], rows(12, 1)[0]})));
}

TEST_F(PartWriterTest, RefusesToOverfill) {
  PartWriter writer(folder_, {16, 16}, 1);
  EXPECT_THROW(writer.append(records(0, 2), rows(0, 2), rows(0, 2)), std::logic_error);
}

TEST_F(PartWriterTest, IndexKeepsTheOrigin) {
  data::DatasetIndex index;
  index.parts = {{"part-00000.h5", std::string(64, 'a'), 1}};
  index.base_sha256 = index.vae_sha256 = index.captions_sha256 = std::string(64, 'b');
  index.buckets = {{16, 16}};
  write_index_with_origin(folder_, index, {{"images", "photos"}, {"resolution", 16}});
  EXPECT_EQ(read_origin(folder_), nlohmann::json({{"images", "photos"}, {"resolution", 16}}));
  EXPECT_EQ(data::read_dataset_index(folder_).captions_sha256, index.captions_sha256);
}

}  // namespace
}  // namespace ldmtune::pipeline
