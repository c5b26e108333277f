#include "data/captions.h"

#include <map>

#include "core/random.h"
#include "data_fixture.h"

namespace ldmtune::data {
namespace {

using Templates = FolderTest;

TEST_F(Templates, NoTemplateIsTheCaptionItself) {
  const CaptionTemplates templates("", "");
  EXPECT_EQ(templates.plain("a red fox"), "a red fox");
  EXPECT_EQ(templates.apply("a red fox", 1, 0, 5, 0), "a red fox");
}

TEST_F(Templates, PlaceholdersAreFilledOnce) {
  EXPECT_EQ(CaptionTemplates("a photo of [name], [filewords]", "sks").plain("red {}"), "a photo of sks, red {}");
  EXPECT_EQ(CaptionTemplates("{}, pencil", "").plain("[name]"), "[name], pencil");
  EXPECT_EQ(CaptionTemplates("[nam] [] {", "").plain("x"), "[nam] [] {");
}

TEST_F(Templates, AFileHoldsOneTemplateALine) {
  write("style.txt",
        "\xEF\xBB\xBF"
        "a drawing of {}\r\n\n  {} in the style of [name]  \n");
  const CaptionTemplates templates((folder_ / "style.txt").string(), "ink");
  EXPECT_EQ(templates.plain("fox"), "a drawing of fox");
  std::map<std::string, int> counts;
  for (std::uint64_t draw = 0; draw < 400; ++draw) ++counts[templates.apply("fox", 3, 0, draw, 0)];
  ASSERT_EQ(counts.size(), 2u);
  EXPECT_GT(counts["a drawing of fox"], 150);
  EXPECT_GT(counts["fox in the style of ink"], 150);
}

TEST_F(Templates, ChoiceAndDropoutAreTheDocumentedNumbers) {
  write("three.txt", "0{}\n1{}\n2{}\n");
  const CaptionTemplates templates((folder_ / "three.txt").string(), "");
  int dropped = 0;
  for (std::uint64_t draw = 0; draw < 2000; ++draw) {
    const bool drops = RandomStream{42, Purpose::caption_dropout, 1, draw}.uniform(0) < 0.1;
    const auto line = RandomStream{42, Purpose::caption_template, 1, draw}.integer(0, 3);
    dropped += drops;
    EXPECT_EQ(templates.apply("!", 42, 1, draw, 0.1), drops ? "" : cat(line, "!"));
  }
  EXPECT_GT(dropped, 140);
  EXPECT_LT(dropped, 260);
  EXPECT_EQ(templates.apply("!", 42, 1, 7, 1.0), "") << "1 drops all";
  EXPECT_NE(templates.plain("!"), "");
}

TEST_F(Templates, BadSettingsAreNamed) {
  const auto error = [](const std::string& text, const std::string& name) {
    return error_of([&] { CaptionTemplates(text, name); });
  };
  expect_says(error((folder_ / "missing.txt").string(), ""), {"caption.template", "missing.txt", "does not exist"});
  write("empty.txt", "\n \n");
  expect_says(error((folder_ / "empty.txt").string(), ""), {"empty.txt", "found none"});
  write("latin.txt", "fine\ncaf\xE9\n");
  expect_says(error((folder_ / "latin.txt").string(), ""), {"latin.txt:2", "UTF-8"});
  expect_says(error("a photo of [name]", ""), {"caption.name", "[name]"});
  expect_says(error("\xFF", ""), {"caption.template", "UTF-8"});
  std::filesystem::create_directory(folder_ / "folder.txt");
  expect_says(error((folder_ / "folder.txt").string(), ""), {"folder.txt"});
}

}  // namespace
}  // namespace ldmtune::data
