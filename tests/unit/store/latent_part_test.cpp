#include "store/latent_part.h"

#include "store/hdf5.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

constexpr BucketSize kSquare{64, 64}, kWide{96, 32};

BucketRows make_rows(std::int64_t count, std::uint64_t first_id, at::IntArrayRef latent_shape = {4, 8, 8}) {
  BucketRows rows;
  for (std::int64_t i = 0; i < count; ++i) {
    SampleRecord record;
    record.sample_id = first_id + static_cast<std::uint64_t>(i) * 3;
    record.image_sha256[31] = static_cast<std::uint8_t>(i);
    record.variant = static_cast<std::uint8_t>(i % 2);
    record.original_size = {100 + static_cast<std::int32_t>(i), 50};
    record.crop = {1, 2, 3, -4};
    record.split = static_cast<Split>(i % 3);
    rows.records.push_back(record);
  }
  std::vector<std::int64_t> shape{count};
  shape.insert(shape.end(), latent_shape.begin(), latent_shape.end());
  rows.latent_mean = at::randn(shape).to(at::kHalf);
  rows.latent_std = at::rand(shape).to(at::kHalf);
  return rows;
}

/// Removes an object of a good part and lets `replace` put another in its place.
void tamper(const std::filesystem::path& file, const std::string& path, const std::function<void(hid_t)>& replace) {
  const hdf5::Lock lock;
  const hdf5::Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  const hdf5::Id opened(H5Fopen(file.c_str(), H5F_ACC_RDWR, access), H5Fclose);
  ASSERT_GE(H5Ldelete(opened, path.c_str(), H5P_DEFAULT), 0);
  replace(opened);
}

class LatentPartTest : public testing::Test {
 protected:
  LatentPartTest() { write_latent_part(file_, {{kSquare, make_rows(5, 10)}}); }

  /// Replaces one dataset of the good part by `tensor`.
  void replace(const std::string& path, const at::Tensor& tensor, std::int64_t chunk_rows) {
    tamper(file_, path, [&](hid_t file) { hdf5::write_dataset(file, path, tensor, chunk_rows, path); });
  }
  /// Replaces latent_mean by one that `properties` describes.
  void replace_mean(const std::function<void(hid_t)>& properties, std::vector<hsize_t> shape = {5, 4, 8, 8}) {
    tamper(file_, "/64x64/latent_mean", [&](hid_t file) {
      const hdf5::Id creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
      properties(creation);
      const hdf5::Id space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), H5Sclose);
      const hdf5::Id made(
          H5Dcreate2(file, "/64x64/latent_mean", hdf5::file_type(at::kHalf), space, H5P_DEFAULT, creation, H5P_DEFAULT),
          H5Dclose);
      ASSERT_GE(hid_t(made), 0) << hdf5::last_error();
    });
  }
  void expect_refused(const std::string& expected) {
    expect_input_error([&] { const LatentPart part(file_); }, expected, "part.h5");
  }

  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_ / "part.h5";
};

TEST(BucketSize, NamesRoundTripAndOthersAreRefused) {
  EXPECT_EQ(BucketSize::parse("512x768"), (BucketSize{512, 768}));
  EXPECT_EQ((BucketSize{512, 768}).name(), "512x768");
  for (const char* bad :
       {"", "512", "x", "512x", "x768", "-1x2", "0x64", "064x64", "64x64x64", "64 x64", "99999999999x1", "65537x1"}) {
    expect_input_error([&] { BucketSize::parse(bad); }, "<width>x<height>");
  }
}

TEST(LatentPart, RoundTripsRecordsLatentsAndMasks) {
  const TemporaryFolder folder;
  std::map<BucketSize, BucketRows> buckets{{kSquare, make_rows(5, 10)}, {kWide, make_rows(2, 1, {4, 4, 12})}};
  buckets[kWide].mask = at::randint(0, 255, {2, 4, 12}).to(at::kByte);
  write_latent_part(folder / "part.h5", buckets);
  const LatentPart part(folder / "part.h5");
  EXPECT_EQ(part.buckets(), (std::vector<BucketSize>{kSquare, kWide}));
  for (const auto& [size, rows] : buckets) {
    EXPECT_EQ(part.latent_shape(size), rows.latent_mean.sizes().slice(1).vec());
    ASSERT_EQ(part.records(size).size(), rows.records.size());
    for (std::size_t i = 0; i < rows.records.size(); ++i) {
      const SampleRecord &a = part.records(size)[i], &b = rows.records[i];
      EXPECT_EQ(a.sample_id, b.sample_id);
      EXPECT_EQ(a.image_sha256, b.image_sha256);
      EXPECT_EQ(a.variant, b.variant);
      EXPECT_EQ(a.original_size, b.original_size);
      EXPECT_EQ(a.crop, b.crop);
      EXPECT_EQ(a.split, b.split);
      const auto row = static_cast<std::int64_t>(i);
      const at::Tensor latent = part.read_latent(size, row);
      EXPECT_TRUE(at::equal(latent, at::stack({rows.latent_mean[row], rows.latent_std[row]})));
    }
  }
  EXPECT_TRUE(at::equal(part.read_mask(kWide, 1), buckets[kWide].mask[1]));
  EXPECT_FALSE(part.read_mask(kSquare, 0).defined());
}

TEST(LatentPart, SameRowsGiveTheSameBytes) {
  const TemporaryFolder folder;
  const std::map<BucketSize, BucketRows> buckets{{kSquare, make_rows(40, 10)}, {kWide, make_rows(2, 1, {4, 4, 12})}};
  write_latent_part(folder / "a.h5", buckets);
  ::sleep(1);  // a time stamp would differ
  write_latent_part(folder / "another_name.h5", buckets);
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "another_name.h5"));
}

TEST_F(LatentPartTest, CanBeMovedAndNamesRowsThatAreNotThere) {
  LatentPart first(file_);
  LatentPart second(std::move(first));
  EXPECT_EQ(second.records(kSquare).size(), 5u);
  expect_input_error([&] { second.read_latent(kSquare, 5); }, "a row below 5", "64x64");
  expect_input_error([&] { second.read_latent(kSquare, -1); }, "found -1", "part.h5");
  expect_input_error([&] { second.records(kWide); }, "a bucket 96x32", "part.h5");
}

TEST_F(LatentPartTest, EveryCutIsRefused) {
  const std::string whole = read_bytes(file_);
  for (std::size_t size = 0; size < whole.size(); size += 256) {
    write_bytes(file_, whole.substr(0, size));
    EXPECT_THROW(LatentPart{file_}, InputError) << "cut at " << size;
  }
}

/// Every flipped byte is either reported, at opening or at reading, or changes nothing that is read.
TEST_F(LatentPartTest, EveryFlippedByteIsReportedOrHarmless) {
  const std::string whole = read_bytes(file_);
  std::vector<at::Tensor> latents;
  const LatentPart good(file_);
  for (std::int64_t row = 0; row < 5; ++row) latents.push_back(good.read_latent(kSquare, row));
  std::size_t reported = 0, tried = 0;
  for (std::size_t at = 0; at < whole.size(); at += 29) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x5A);
    write_bytes(folder_ / "flipped.h5", bytes);
    ++tried;
    try {
      const LatentPart part(folder_ / "flipped.h5");
      for (std::int64_t row = 0; row < 5; ++row) {
        EXPECT_TRUE(at::equal(part.read_latent(kSquare, row), latents[static_cast<std::size_t>(row)])) << at;
        EXPECT_EQ(part.records(kSquare)[static_cast<std::size_t>(row)].sample_id,
                  good.records(kSquare)[static_cast<std::size_t>(row)].sample_id);
      }
    } catch (const InputError&) {
      ++reported;
    }
  }
  EXPECT_GT(reported, tried / 2);
}

TEST_F(LatentPartTest, ChecksumMismatchNamesTheRow) {
  const at::Tensor row = LatentPart(file_).read_latent(kSquare, 3)[0].contiguous();
  std::string bytes = read_bytes(file_);
  const std::string stored(static_cast<const char*>(row.const_data_ptr()), row.nbytes());
  const std::size_t at = bytes.find(stored);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 17] = static_cast<char>(bytes[at + 17] ^ 1);
  write_bytes(file_, bytes);
  const LatentPart part(file_);
  EXPECT_EQ(part.read_latent(kSquare, 2).size(0), 2);
  expect_input_error([&] { part.read_latent(kSquare, 3); }, "checksum", "64x64/latent_mean");
}

TEST_F(LatentPartTest, RefusesOtherFilesAndOlderMetadata) {
  write_bytes(file_, "not HDF5 at all");
  expect_refused("another format");
  write_bytes(file_, "");
  expect_refused("another format");
  write_bytes(file_, "\x89HDF\r\n\x1a\n" + std::string(200, '\0'));
  expect_refused("superblock 3");
  std::filesystem::remove(file_);
  expect_refused("No such file");
}

TEST_F(LatentPartTest, RefusesOtherFormatsAndVersions) {
  const hdf5::Lock lock;
  {
    const hdf5::Id file = hdf5::create_file(file_, hdf5::Format::checksummed);
    const hdf5::Id root = hdf5::open_group(file, "/", "");
    hdf5::write_attribute(root, "format", std::string("something else"), "");
    hdf5::write_attribute(root, "version", std::int64_t{1}, "");
  }
  expect_refused("something else");
  {
    const hdf5::Id file = hdf5::create_file(file_, hdf5::Format::checksummed);
    const hdf5::Id root = hdf5::open_group(file, "/", "");
    hdf5::write_attribute(root, "format", std::string("ldmtune-latents"), "");
    hdf5::write_attribute(root, "version", std::int64_t{2}, "");
  }
  expect_refused("version 2");
  { const hdf5::Id file = hdf5::create_file(file_, hdf5::Format::checksummed); }
  expect_refused("attribute format");
}

TEST_F(LatentPartTest, RefusesWrongTypesShapesAndCounts) {
  replace("/64x64/latent_mean", at::ones({5, 4, 8, 8}), 1);
  expect_refused("little-endian Half");
  replace("/64x64/latent_mean", at::ones({5, 4, 64}, at::kHalf), 1);
  expect_refused("4 dimensions, found 3");
  replace("/64x64/latent_mean", at::ones({5, 4, 8, 9}, at::kHalf), 1);
  expect_refused("the shape of latent_mean");
  replace("/64x64/latent_mean", at::ones({5, 4, 8, 8}, at::kHalf), 1);
  replace("/64x64/variant", at::zeros({4}, at::kByte), 4);
  expect_refused("expected 5 rows, found 4");
  replace("/64x64/variant", at::full({5}, 2, at::kByte), 5);
  expect_refused("expected 0 or 1");
  replace("/64x64/variant", at::zeros({5}, at::kByte), 5);
  replace("/64x64/split", at::full({5}, 3, at::kByte), 5);
  expect_refused("expected 0, 1 or 2");
  replace("/64x64/split", at::zeros({5}, at::kByte), 5);
  replace("/64x64/sample_id", at::zeros({5}, at::kLong).to(at::kUInt64), 5);
  expect_refused("rising order");
}

TEST_F(LatentPartTest, RefusesOtherStorageThanWholeSamplesWithFletcher32) {
  const hsize_t sample[] = {1, 4, 8, 8}, piece[] = {1, 4, 8, 4}, huge[] = {1, 4, 16384, 16384};
  replace("/64x64/latent_mean", at::ones({5, 4, 8, 8}, at::kHalf), 0);
  expect_refused("another layout");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample); });
  expect_refused("fletcher32 as its only filter, found 0");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample), H5Pset_deflate(p, 9), H5Pset_fletcher32(p); });
  expect_refused("found 2 filters");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample), H5Pset_filter(p, 32099, H5Z_FLAG_OPTIONAL, 0, nullptr); });
  expect_refused("fletcher32 as its only filter");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, piece), H5Pset_fletcher32(p); });
  expect_refused("chunks of whole samples");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, huge), H5Pset_fletcher32(p); }, {5, 4, 16384, 16384});
  expect_refused("chunks of whole samples");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample), H5Pset_fletcher32(p); });
  expect_refused("not completely written");
}

TEST_F(LatentPartTest, RefusesImpossibleDimensions) {
  const hsize_t sample[] = {1, 4, 8, 8};
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample), H5Pset_fletcher32(p); }, {hsize_t{1} << 40, 4, 8, 8});
  expect_refused("dimensions from 1 to 2^31");
  replace_mean([&](hid_t p) { H5Pset_chunk(p, 4, sample), H5Pset_fletcher32(p); }, {2'000'000'000, 4, 8, 8});
  expect_refused("not completely written");
}

TEST_F(LatentPartTest, RefusesDataOutsideOfTheFile) {
  write_bytes(folder_ / "outside.bin", std::string(100'000, '\0'));
  replace_mean([&](hid_t p) { H5Pset_external(p, (folder_ / "outside.bin").c_str(), 0, H5F_UNLIMITED); });
  expect_refused("another layout");
  tamper(file_, "/64x64/latent_mean", [&](hid_t file) {
    H5Lcreate_external((folder_ / "other.h5").c_str(), "/x", file, "/64x64/latent_mean", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_refused("soft or external link");
  tamper(file_, "/64x64/latent_mean", [&](hid_t file) {
    H5Lcreate_soft("/64x64/latent_std", file, "/64x64/latent_mean", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_refused("soft or external link");
  replace_mean([&](hid_t p) {
    const hsize_t shape[] = {5, 4, 8, 8};
    const hdf5::Id space(H5Screate_simple(4, shape, nullptr), H5Sclose);
    H5Pset_virtual(p, space, "other.h5", "/x", space);
  });
  expect_refused("another layout");
}

TEST_F(LatentPartTest, RefusesCyclesAndForeignObjects) {
  tamper(file_, "/64x64", [](hid_t file) { H5Lcreate_hard(file, "/", file, "/64x64", H5P_DEFAULT, H5P_DEFAULT); });
  expect_refused("latent_mean");
  tamper(file_, "/64x64", [](hid_t file) { hdf5::create_group(file, "/readme", ""); });
  expect_refused("<width>x<height>");
  tamper(file_, "/readme", [](hid_t file) { hdf5::write_dataset(file, "/64x64", at::ones({2}), 0, ""); });
  expect_refused("a group");
}

TEST_F(LatentPartTest, PrintsNothingOfItsOwnOnErrors) {
  testing::internal::CaptureStderr();
  write_bytes(file_, read_bytes(file_).substr(0, 1000));
  EXPECT_THROW(LatentPart{file_}, InputError);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(LatentPartWriter, RefusesRowsThatDoNotFit) {
  const TemporaryFolder folder;
  BucketRows rows = make_rows(3, 1);
  rows.latent_std = rows.latent_std.narrow(0, 0, 2);
  EXPECT_ANY_THROW(write_latent_part(folder / "a.h5", {{kSquare, rows}}));
  rows = make_rows(3, 1);
  rows.records[2].sample_id = 1;
  EXPECT_ANY_THROW(write_latent_part(folder / "a.h5", {{kSquare, rows}}));
  EXPECT_ANY_THROW(write_latent_part(folder / "a.h5", {{kSquare, BucketRows{}}}));
  EXPECT_EQ(folder.file_count(), 0u);
}

}  // namespace
}  // namespace ldmtune::store
