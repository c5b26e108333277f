#include <sys/stat.h>

#include "data/captions.h"
#include "data_fixture.h"

namespace ldmtune::data {
namespace {

class ImageList : public FolderTest {
 protected:
  std::string list_error() const {
    return error_of([this] { list_images(folder_); });
  }
  // The error for one image and this metadata.
  std::string metadata_error(const std::string& metadata) const {
    write("a.png", "");
    write("metadata.jsonl", metadata);
    return list_error();
  }
};

TEST_F(ImageList, CaptionsComeFromFilesBesideThenFromNames) {
  write("b.PNG", "");
  write("b.txt", "\xEF\xBB\xBF  a red fox \n");
  write("b.caption", "not this one");
  write("a.jpeg", "");
  write("a.caption", "an owl\n");
  write("00012-7-tall grass.webp", "");
  write("c.jpg", "");
  write("c.txt", "");
  write("notes.md", "no image");
  write("below/d.png", "");
  const auto entries = list_images(folder_);
  ASSERT_EQ(entries.size(), 4u);
  EXPECT_EQ(entries[0].source, "00012-7-tall grass.webp");
  EXPECT_EQ(entries[0].text, "tall grass");
  EXPECT_EQ(entries[1].text, "an owl");
  EXPECT_EQ(entries[2].text, "a red fox");
  EXPECT_EQ(entries[2].file, folder_ / "b.PNG");
  EXPECT_EQ(entries[3].text, "") << "an empty file is an empty caption";
  EXPECT_FALSE(entries[0].split || entries[0].group || entries[0].known);
}

TEST_F(ImageList, KohyasFoldersAreRepeatedConcepts) {
  write("10_sks dog/b.png", "");
  write("10_sks dog/a.png", "");
  write("10_sks dog/a.txt", "a sks dog on a sofa");
  write("10_sks dog/notes.md", "no image");
  write("2_a_b/c.png", "");
  write("0_left out/d.png", "");
  write("_e/e.png", "");
  write("12_/f.png", "");
  write("top.png", "");
  const auto entries = list_images(folder_);
  ASSERT_EQ(entries.size(), 4u);
  EXPECT_EQ(entries[0].source, "10_sks dog/a.png");
  EXPECT_EQ(entries[0].text, "a sks dog on a sofa");
  EXPECT_EQ(entries[1].text, "sks dog");
  EXPECT_EQ(entries[1].file, folder_ / "10_sks dog" / "b.png");
  EXPECT_EQ(entries[2].text, "a_b");
  EXPECT_EQ(entries[3].text, "top");
  EXPECT_EQ(
      (std::vector<std::uint64_t>{entries[0].repeats, entries[1].repeats, entries[2].repeats, entries[3].repeats}),
      (std::vector<std::uint64_t>{10, 10, 2, 1}));
}

TEST_F(ImageList, RepeatsAreBounded) {
  write("metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"x\", \"repeats\": 7}");
  write("a.png", "");
  EXPECT_EQ(list_images(folder_).front().repeats, 7u);
  expect_says(metadata_error("{\"file_name\": \"a.png\", \"text\": \"x\", \"repeats\": 0}"), {"repeats", "found 0"});
  expect_says(metadata_error("{\"file_name\": \"a.png\", \"text\": \"x\", \"repeats\": -1}"), {"repeats"});
  std::filesystem::remove(folder_ / "metadata.jsonl");
  write("2023_photos/b.png", "");
  expect_says(list_error(), {"2023_photos", "REPEATS_CONCEPT", "1000"});
  std::filesystem::remove_all(folder_ / "2023_photos");
  write("99999999999999999999999_photos/b.png", "");
  expect_says(list_error(), {"99999999999999999999999_photos", "1000"});
}

TEST_F(ImageList, FileNamesAsAutomatic1111ReadsThem) {
  EXPECT_EQ(caption_of_file_name("00012-0-red fox.png"), "red fox");
  EXPECT_EQ(caption_of_file_name("0001 fox.v2.png"), "fox.v2");
  EXPECT_EQ(caption_of_file_name("0001_fox.png"), "fox");
  EXPECT_EQ(caption_of_file_name("fox 12.png"), "fox 12");
  EXPECT_EQ(caption_of_file_name("_fox.png"), "_fox");
  EXPECT_EQ(caption_of_file_name("0001.png"), "");
  EXPECT_EQ(caption_of_file_name("0001_.png"), "");
}

TEST_F(ImageList, MetadataListsWhatIsTaken) {
  write("b.png", "");
  write("a.png", "");
  write("below/c.png", "");
  write("metadata.jsonl",
        "{\"file_name\": \"b.png\", \"text\": \"bee\", \"split\": \"test\", \"group\": \"g\", \"known\": true}\n\n"
        "{\"file_name\": \"./below/c.png\", \"text\": \"\", \"group\": null, \"width\": 3}\r\n");
  const auto entries = list_images(folder_);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].source, "b.png");
  EXPECT_EQ(entries[0].text, "bee");
  EXPECT_EQ(entries[0].split, "test");
  EXPECT_EQ(entries[0].group, "g");
  EXPECT_EQ(entries[0].known, true);
  EXPECT_EQ(entries[1].source, "below/c.png");
  EXPECT_FALSE(entries[1].group || entries[1].split || entries[1].known);
}

TEST_F(ImageList, BadMetadataIsNamedByFileAndLine) {
  const std::string good = "{\"file_name\": \"a.png\", \"text\": \"x\"}\n";
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
      {good + "{\"file_name\"", {"metadata.jsonl:2", "malformed JSON"}},
      {good + "[1]", {"metadata.jsonl:2", "expected a JSON object"}},
      {good + good, {"metadata.jsonl:2", "'a.png' a second time"}},
      {good + "{\"file_name\": \"./a.png\", \"text\": \"x\"}", {"metadata.jsonl:2", "a second time"}},
      {"\n{\"file_name\": \"a.png\"}", {"metadata.jsonl:2", "\"text\"", "found none"}},
      {"{\"text\": \"x\"}", {"metadata.jsonl:1", "\"file_name\""}},
      {"{\"file_name\": \"a.png\", \"text\": 3}", {"\"text\"", "expected a string", "found 3"}},
      {"{\"file_name\": \"a.png\", \"text\": \"a\\u0000b\"}", {"NUL"}},
      {"{\"file_name\": \"a.png\", \"text\": \"\xFF\"}", {"metadata.jsonl:1"}},
      {"{\"file_name\": \"a.png\", \"text\": \"" + std::string(70000, 'a') + "\"}", {"65536 bytes", "found 70000"}},
      {"{\"file_name\": \"none.png\", \"text\": \"x\"}", {"metadata.jsonl:1", "none.png", "no such file"}},
      {"{\"file_name\": \"../a.png\", \"text\": \"x\"}", {"inside the image folder"}},
      {"{\"file_name\": \"b/../../a.png\", \"text\": \"x\"}", {"inside the image folder"}},
      {"{\"file_name\": \"/a.png\", \"text\": \"x\"}", {"inside the image folder"}},
      {"{\"file_name\": \"\", \"text\": \"x\"}", {"inside the image folder"}},
      {"{\"file_name\": \"metadata.jsonl\", \"text\": \"x\"}", {".png, .jpg"}},
      {"{\"file_name\": \"a\\nb.png\", \"text\": \"x\"}", {"line ends", "'a?b.png'"}},
      {"{\"file_name\": \"a\\u0000.png\", \"text\": \"x\"}", {"control characters"}},
      {"{\"file_name\": \"" + std::string(300, 'n') + ".png\", \"text\": \"x\"}", {"too long"}},
      {"{\"file_name\": \"a.png\", \"text\": \"x\", \"split\": \"val\"}", {"\"validation\"", "found \"val\""}},
      {"{\"file_name\": \"a.png\", \"text\": \"x\", \"known\": \"yes\"}", {"\"known\"", "true or false"}},
      {"{\"file_name\": \"a.png\", \"text\": \"x\", \"group\": 1}", {"\"group\"", "expected a string"}},
      {std::string(100'000, '['), {"at most 16 levels"}},
      {"\n", {"expected at least one"}},
  };
  for (const auto& [metadata, pieces] : cases) expect_says(metadata_error(metadata), pieces);
}

TEST_F(ImageList, CaptionFilesAreChecked) {
  write("a.png", "");
  write("a.txt", std::string("a\0b", 3));
  expect_says(list_error(), {"a.txt", "NUL"});
  write("a.txt", "caf\xE9");
  expect_says(list_error(), {"a.txt", "UTF-8", "malformed byte at 3"});
  write("a.txt", std::string(1 << 20, 'a'));
  expect_says(list_error(), {"a.txt", "65536 bytes"});
}

TEST_F(ImageList, AFileNameWithoutWordsIsNoCaption) {
  write("0001.png", "");
  expect_says(list_error(), {"0001.png", "expected a caption", "0001.txt"});
}

TEST_F(ImageList, OnlyRegularFilesAreRead) {
  ASSERT_EQ(mkfifo((folder_ / "pipe.png").c_str(), 0600), 0);
  expect_says(list_error(), {"pipe.png", "pipe or device"});
  std::filesystem::remove(folder_ / "pipe.png");
  std::filesystem::create_directory(folder_ / "folder.png");
  expect_says(list_error(), {"folder.png", "found a folder"});
  std::filesystem::remove(folder_ / "folder.png");
  std::filesystem::create_symlink("loop.png", folder_ / "loop.png");
  expect_says(list_error(), {"loop.png", "symbolic links"});
  std::filesystem::remove(folder_ / "loop.png");
  std::filesystem::create_symlink("nowhere", folder_ / "dangling.png");
  expect_says(list_error(), {"dangling.png", "no such file"});
  std::filesystem::remove(folder_ / "dangling.png");
  write("blob", "");
  std::filesystem::create_symlink("blob", folder_ / "linked.png");
  EXPECT_EQ(list_images(folder_).at(0).text, "linked") << "cache snapshots are links to files";
  ASSERT_EQ(mkfifo((folder_ / "linked.txt").c_str(), 0600), 0);
  expect_says(list_error(), {"linked.txt"});
}

TEST_F(ImageList, StrangeFileNamesAreRefused) {
  write("two\nlines.png", "");
  expect_says(list_error(), {"line ends", "'two?lines.png'", "rename"});
  std::filesystem::remove(folder_ / "two\nlines.png");
  write("caf\xE9.png", "");
  expect_says(list_error(), {"UTF-8", "rename"});
}

TEST_F(ImageList, FoldersWithoutImagesAreRefused) {
  expect_says(list_error(), {folder_.string(), "found none"});
  expect_says(error_of([this] { list_images(folder_ / "missing"); }), {"missing", "expected a folder"});
  write("file", "");
  expect_says(error_of([this] { list_images(folder_ / "file"); }), {"expected a folder"});
}

}  // namespace
}  // namespace ldmtune::data
