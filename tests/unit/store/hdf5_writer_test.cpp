#include "store/hdf5_writer.h"

#include "store/hdf5.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

/// A whole dataset as float64.
std::vector<double> read_doubles(const std::filesystem::path& file, const std::string& path) {
  const hdf5::Lock lock;
  const hdf5::Id opened(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  const hdf5::Id dataset(H5Dopen2(opened, path.c_str(), H5P_DEFAULT), H5Dclose);
  const hdf5::Id space(H5Dget_space(dataset), H5Sclose);
  std::vector<double> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << path;
  return values;
}

void write_example(Hdf5Writer& writer) {
  writer.write("/step_000001/gradient/768.k.linear.0.weight", at::arange(6, at::kFloat).reshape({2, 3}).t());
  writer.write("/step_000001/timestep", at::arange(3, at::kLong));
  writer.write("/step_000001/bfloat", at::full({2}, 1.5, at::kBFloat16));
  writer.write("/step_000001/flag", at::ones({2}, at::kBool));
  writer.write("/step_000001/empty", at::ones({0, 3}));
  writer.attribute("/step_000001", "loss", 0.25);
  writer.attribute("/step_000001", "learning_rate", std::vector<double>{1e-4, 2e-5});
  writer.attribute("/", "format", std::string("ldmtune-trace"));
}

TEST(Hdf5Writer, WritesTensorsUnderGroupsItCreates) {
  const TemporaryFolder folder;
  Hdf5Writer writer(folder / "t.h5");
  write_example(writer);
  writer.close();
  EXPECT_EQ(read_doubles(folder / "t.h5", "/step_000001/gradient/768.k.linear.0.weight"),
            (std::vector<double>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(read_doubles(folder / "t.h5", "/step_000001/timestep"), (std::vector<double>{0, 1, 2}));
  EXPECT_EQ(read_doubles(folder / "t.h5", "/step_000001/bfloat"), (std::vector<double>{1.5, 1.5}));
  EXPECT_EQ(read_doubles(folder / "t.h5", "/step_000001/flag"), (std::vector<double>{1, 1}));
  const hdf5::Lock lock;
  const hdf5::Id file(H5Fopen((folder / "t.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  EXPECT_EQ(hdf5::read_text_attribute(file, "format", ""), "ldmtune-trace");
}

TEST(Hdf5Writer, SameCallsGiveTheSameBytes) {
  const TemporaryFolder folder;
  for (const char* name : {"a.h5", "b.h5"}) {
    Hdf5Writer writer(folder / name);
    write_example(writer);
    if (name[0] == 'a') ::sleep(1);  // a time stamp would differ
  }
  EXPECT_EQ(read_bytes(folder / "a.h5"), read_bytes(folder / "b.h5"));
}

TEST(Hdf5Writer, CanBeReadAfterAFlushThoughItWasNeverClosed) {
  const TemporaryFolder folder;
  Hdf5Writer writer(folder / "t.h5");
  write_example(writer);
  writer.flush();
  std::filesystem::copy_file(folder / "t.h5", folder / "left_by_a_killed_run.h5");
  EXPECT_EQ(read_doubles(folder / "left_by_a_killed_run.h5", "/step_000001/timestep").size(), 3u);
}

TEST(Hdf5Writer, NamesFileAndObjectInErrors) {
  const TemporaryFolder folder;
  EXPECT_THROW(Hdf5Writer(folder / "no" / "t.h5"), Error);
  Hdf5Writer writer(folder / "t.h5");
  writer.write("/a/b", at::ones({2}));
  try {
    writer.write("/a/b", at::ones({2}));
    FAIL() << "the same path was written twice";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/a/b"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("t.h5"), std::string::npos) << error.what();
  }
  EXPECT_THROW(writer.attribute("/missing", "x", 1.0), Error);
}

}  // namespace
}  // namespace ldmtune::store
