#include "store/zip_archive.h"

#include "store/torch_file.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

class ZipArchiveTest : public testing::Test {
 protected:
  ZipArchiveTest() {
    {
      OutputFile out(file_);
      ZipWriter zip(out);
      zip.add("a/first", "first content");
      zip.add("a/second", "second content");
      zip.finish();
    }
    bytes_ = read_bytes(file_);
    local_ = bytes_.find("PK\x03\x04", 4);  // of the second record
    central_ = bytes_.find("PK\x01\x02");   // of the first record
    end_ = bytes_.find("PK\x05\x06");
  }
  /// Puts `value` of `count` bytes at `at`, and expects the archive refused.
  void expect_refused(std::size_t at, std::uint64_t value, int count, const std::string& expected) {
    SCOPED_TRACE(expected);
    std::string changed = bytes_;
    changed.replace(at, static_cast<std::size_t>(count), little_endian(value, count));
    write_bytes(file_, changed);
    expect_input_error(
        [&] {
          const ZipReader zip(file_);
          for (const std::string& name : zip.names()) zip.read_text(name, 1 << 20);
        },
        expected, "a.zip");
  }
  void expect_name_refused(const std::string& name, const std::string& expected) {
    SCOPED_TRACE(name);
    {
      OutputFile out(file_);
      ZipWriter zip(out);
      zip.add(name, "x");
      zip.finish();
    }
    expect_input_error([&] { const ZipReader zip(file_); }, expected, "a.zip");
  }

  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_ / "a.zip";
  std::string bytes_;
  std::size_t local_ = 0, central_ = 0, end_ = 0;
};

TEST_F(ZipArchiveTest, ReadsWhatItWrote) {
  const ZipReader zip(file_);
  EXPECT_EQ(zip.names(), (std::vector<std::string>{"a/first", "a/second"}));
  EXPECT_EQ(zip.read_text("a/first", 100), "first content");
  EXPECT_EQ(zip.read_text("a/second", 100), "second content");
  expect_input_error([&] { zip.read_text("a/second", 5); }, "of 14 bytes");
  expect_input_error([&] { zip.read_text("a/third", 5); }, "no record 'a/third'");
}

TEST_F(ZipArchiveTest, ManyRecordsNeedZip64) {
  {
    OutputFile out(file_);
    ZipWriter zip(out);
    for (int i = 0; i < 70'000; ++i) zip.add("a/" + std::to_string(i), std::string());
    zip.finish();
  }
  EXPECT_EQ(ZipReader(file_).names().size(), 70'000u);
  std::string changed = read_bytes(file_);
  const std::size_t record = changed.find("PK\x06\x06");
  changed[record + 32] = static_cast<char>(changed[record + 32] ^ 1);
  write_bytes(file_, changed);
  EXPECT_THROW(ZipReader{file_}, InputError);
}

TEST_F(ZipArchiveTest, RefusesDamagedRecords) {
  expect_refused(bytes_.find("second content"), 'S', 1, "wrong checksum");
  expect_refused(central_ + 16, 0, 4, "two checksums");
  expect_refused(central_ + 8, 1, 2, "encrypted");
  expect_refused(local_ + 6, 1, 2, "encrypted");
  expect_refused(central_ + 10, 8, 2, "two ways of compression");
  expect_refused(central_ + 24, 1, 4, "two sizes");
  expect_refused(central_ + 38, 0xA1FF0000u, 4, "symbolic link");
  expect_refused(local_ + 30, 'b', 1, "another name");
  expect_refused(central_ + 42, local_, 4, "another name");
  expect_refused(central_ + 42, 0xFFFFFF00u, 4, "past its end");
  expect_refused(central_ + 42, 0xFFFFFFFFu, 4, "past its end");
}

TEST_F(ZipArchiveTest, ListsCompressedRecordsButReadsNone) {
  std::string changed = bytes_;
  for (const std::size_t at : {central_ + 10, std::size_t{8}}) changed.replace(at, 2, little_endian(8, 2));
  write_bytes(file_, changed);
  const ZipReader zip(file_);
  EXPECT_EQ(zip.names().size(), 2u);
  expect_input_error([&] { zip.read_text("a/first", 100); }, "'a/first', which is compressed");
}

TEST_F(ZipArchiveTest, RefusesDamagedDirectories) {
  expect_refused(end_ + 10, 0xFFFE, 2, "several files");
  expect_refused(end_ + 12, 0x7FFFFFFF, 4, "reach its end record");
  expect_refused(end_ + 16, 0, 4, "reach its end record");
  expect_refused(end_ + 4, 1, 2, "several files");
  expect_refused(central_, 0, 4, "damaged directory");
  expect_refused(central_ + 28, 0xFFFF, 2, "damaged directory");
  expect_refused(end_, 0, 4, "cut short");
}

TEST_F(ZipArchiveTest, RefusesOverlapsAndCopies) {
  // Twice the same central entry: the same name, then the same bytes under another name.
  const std::string entry = bytes_.substr(central_, bytes_.find("PK\x01\x02", central_ + 4) - central_);
  std::string changed = bytes_.substr(0, central_) + entry + entry + bytes_.substr(end_);
  const std::size_t new_end = changed.find("PK\x05\x06");
  changed.replace(new_end + 12, 4, little_endian(2 * entry.size(), 4));
  write_bytes(file_, changed);
  expect_input_error([&] { const ZipReader zip(file_); }, "twice");
  const std::uint64_t longer = central_ - bytes_.find("first content");
  std::string overlapping = bytes_;
  for (const std::size_t at : {central_ + 20, central_ + 24}) overlapping.replace(at, 4, little_endian(longer, 4));
  write_bytes(file_, overlapping);
  expect_input_error([&] { const ZipReader zip(file_); }, "over another");
}

TEST_F(ZipArchiveTest, RefusesNamesThatLeaveTheArchive) {
  for (const char* name : {"../a", "/etc/passwd", "a/../../b", "a\\b", "a\nb", ""})
    expect_name_refused(name, "leaves the archive");
}

TEST_F(ZipArchiveTest, EveryCutAndEveryFlippedByteIsReportedOrHarmless) {
  for (std::size_t size = 0; size < bytes_.size(); ++size) {
    write_bytes(file_, bytes_.substr(0, size));
    EXPECT_THROW(ZipReader{file_}, InputError) << size;
  }
  for (std::size_t at = 0; at < bytes_.size(); ++at) {
    std::string changed = bytes_;
    changed[at] = static_cast<char>(changed[at] ^ 0x55);
    write_bytes(file_, changed);
    try {
      const ZipReader zip(file_);
      EXPECT_EQ(zip.read_text("a/first", 100), "first content") << at;
      EXPECT_EQ(zip.read_text("a/second", 100), "second content") << at;
    } catch (const InputError&) {
      SUCCEED();
    }
  }
}

TEST_F(ZipArchiveTest, FlippedBytesOfATorchFileNeverCrash) {
  PyDict dict;
  dict.ordered = true;
  dict.items = {{768, PyTuple{{at::ones({2, 3}), PyList{{1.0, true, PyValue()}}}}}, {"b", at::ones({4}, at::kBool)}};
  write_torch_file(folder_ / "a.pt", dict);
  const std::string whole = read_bytes(folder_ / "a.pt");
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x21);
    write_bytes(folder_ / "b.pt", changed);
    try {
      EXPECT_TRUE(read_torch_file(folder_ / "b.pt").get_if<PyDict>()) << at;
    } catch (const InputError&) {
      SUCCEED();
    }
  }
}

}  // namespace
}  // namespace ldmtune::store
