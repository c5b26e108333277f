#include "store/files.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "store/checksum.h"
#include "store/file_io.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(WriteAtomically, ReplacesTheFileAndLeavesNothingBeside) {
  const TemporaryFolder folder;
  write_text(folder / "a.txt", "old");
  write_text(folder / "a.txt", "new");
  EXPECT_EQ(read_text(folder / "a.txt"), "new");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(WriteAtomically, KeepsTheOldFileWhenTheWriterThrows) {
  const TemporaryFolder folder;
  write_text(folder / "a.txt", "old");
  const auto failing = [](const std::filesystem::path& temporary) {
    write_bytes(temporary, "half of the n");
    throw Error("disk full");
  };
  EXPECT_THROW(write_atomically(folder / "a.txt", failing), Error);
  EXPECT_EQ(read_text(folder / "a.txt"), "old");
  EXPECT_EQ(folder.file_count(), 1u);
}

TEST(WriteAtomically, RefusesAMissingFolderAndAFolderAsFile) {
  const TemporaryFolder folder;
  expect_input_error([&] { write_text(folder / "no" / "a.txt", "x"); }, "Create it", "a.txt");
  std::filesystem::create_directory(folder / "taken");
  expect_input_error([&] { write_text(folder / "taken", "x"); }, "found a folder", "taken");
}

TEST(ReadText, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  expect_input_error([&] { read_text(folder / "missing"); }, "No such file", "missing");
  expect_input_error([&] { read_text(folder.path()); }, "found a folder");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_input_error([&] { read_text(folder / "fifo"); }, "regular file", "fifo");
  std::filesystem::create_symlink(folder / "loop", folder / "loop");
  expect_input_error([&] { read_text(folder / "loop"); }, "symbolic links", "loop");
  write_bytes(folder / "large", std::string(100, 'x'));
  expect_input_error([&] { read_text(folder / "large", 99); }, "at most 99 bytes", "large");
  EXPECT_EQ(read_text(folder / "large", 100).size(), 100u);
}

TEST(ReadText, FollowsSymlinks) {
  const TemporaryFolder folder;
  write_text(folder / "blob", "content");
  std::filesystem::create_symlink(folder / "blob", folder / "snapshot");
  EXPECT_EQ(read_text(folder / "snapshot"), "content");
}

TEST(InputFile, RefusesReadsPastItsEnd) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "0123456789");
  const InputFile file(folder / "a");
  EXPECT_EQ(file.read_string(8, 2), "89");
  expect_input_error([&] { file.read_string(9, 2); }, "cut short", "a");
  expect_input_error([&] { file.read_string(std::uint64_t(-1), 2); }, "cut short");
  expect_input_error([&] { file.read_string(0, std::size_t(-1)); }, "cut short");
}

TEST(InputFile, ReportsAFileThatShrinksWhileItIsRead) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", std::string(10000, 'x'));
  const InputFile file(folder / "a");
  std::filesystem::resize_file(folder / "a", 100);
  expect_input_error([&] { file.read_string(0, 10000); }, "shrank");
}

TEST(Json, RoundTripsAndNamesThePlaceOfAnError) {
  const TemporaryFolder folder;
  write_json(folder / "a.json", {{"b", 1}, {"a", {1.5, "x"}}});
  EXPECT_EQ(read_json(folder / "a.json"), nlohmann::json({{"b", 1}, {"a", {1.5, "x"}}}));
  write_bytes(folder / "bad.json", "{\"a\": 1,\n \"b\": }");
  expect_input_error([&] { read_json(folder / "bad.json"); }, "line 2, column 7", "bad.json");
  write_bytes(folder / "cut.json", "{\"a\": [1, 2");
  expect_input_error([&] { read_json(folder / "cut.json"); }, "valid JSON", "cut.json");
  write_bytes(folder / "utf8.json", "{\"a\": \"\xff\"}");
  expect_input_error([&] { read_json(folder / "utf8.json"); }, "valid JSON", "utf8.json");
  write_bytes(folder / "empty.json", "");
  expect_input_error([&] { read_json(folder / "empty.json"); }, "valid JSON", "empty.json");
}

TEST(Json, RefusesDeepNesting) {
  const TemporaryFolder folder;
  write_bytes(folder / "deep.json", std::string(100'000, '[') + std::string(100'000, ']'));
  expect_input_error([&] { read_json(folder / "deep.json"); }, "100 deep", "deep.json");
  write_bytes(folder / "fine.json", std::string(90, '[') + std::string(90, ']'));
  EXPECT_TRUE(read_json(folder / "fine.json").is_array());
}

TEST(Json, ReadsPythonsInfinitiesAsNullOutsideStrings) {
  const TemporaryFolder folder;
  write_bytes(folder / "scheduler.json",
              R"({"lambda_min_clipped": -Infinity, "b": [NaN, Infinity], "c": "NaN \" Infinity"})");
  const nlohmann::json json = read_json(folder / "scheduler.json");
  EXPECT_TRUE(json["lambda_min_clipped"].is_null());
  EXPECT_TRUE(json["b"][0].is_null() && json["b"][1].is_null());
  EXPECT_EQ(json["c"], "NaN \" Infinity");
}

TEST(Sha256, MatchesPublishedVectors) {
  // FIPS 180-2, appendix B; and one million 'a'.
  EXPECT_EQ(sha256_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_text(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, OfAFileIsThatOfItsBytes) {
  const TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 3'000'001; ++i) content += static_cast<char>(i * 7 + i / 256);
  write_bytes(folder / "a", content);
  EXPECT_EQ(sha256_file(folder / "a"), sha256_text(content));
  write_bytes(folder / "empty", "");
  EXPECT_EQ(sha256_file(folder / "empty"), sha256_text(""));
}

TEST(Sha256, OfTensorsIgnoresThePrecisionTheyWereSavedIn) {
  const at::Tensor half = at::randn({3, 5}).to(at::kHalf);
  const TensorMap as_half{{"a", half}, {"b", at::arange(3, at::kInt)}};
  const TensorMap as_float{{"a", half.to(at::kFloat)}, {"b", at::arange(3, at::kLong)}};
  EXPECT_EQ(sha256_tensors(as_half), sha256_tensors(as_float));
  EXPECT_NE(sha256_tensors_exact(as_half), sha256_tensors_exact(as_float));
}

TEST(Sha256, OfTensorsTellsNamesShapesAndValuesApart) {
  const at::Tensor value = at::arange(6, at::kFloat);
  const std::string hash = sha256_tensors({{"a", value}});
  EXPECT_NE(hash, sha256_tensors({{"b", value}}));
  EXPECT_NE(hash, sha256_tensors({{"a", value.reshape({2, 3})}}));
  EXPECT_NE(hash, sha256_tensors({{"a", value + 1}}));
  EXPECT_EQ(sha256_tensors({{"a", value.reshape({2, 3}).t()}}),
            sha256_tensors({{"a", value.reshape({2, 3}).t().contiguous()}}));
}

TEST(Crc32, MatchesThePublishedCheckValueAndContinues) {
  EXPECT_EQ(crc32(bytes("123456789")), 0xCBF43926u);
  EXPECT_EQ(crc32(bytes("")), 0u);
  const std::string text = "a longer text of no particular length, for all eight tables";
  EXPECT_EQ(crc32(bytes(text.substr(13)), crc32(bytes(text.substr(0, 13)))), crc32(bytes(text)));
}

TEST(IsUtf8, AcceptsWhatUnicodeAllowsOnly) {
  for (const char* good :
       {"", "a", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x90\xB1", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "a\xC3("}) {
    EXPECT_FALSE(is_utf8(bad)) << printable(bad);
  }
}

TEST(RenameFolder, MovesAWholeFolder) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "a.partial");
  write_text(folder / "a.partial" / "x", "1");
  sync_folder(folder / "a.partial");
  rename_folder(folder / "a.partial", folder / "a");
  EXPECT_EQ(read_text(folder / "a" / "x"), "1");
  EXPECT_THROW(rename_folder(folder / "a.partial", folder / "b"), Error);
}

}  // namespace
}  // namespace ldmtune::store
