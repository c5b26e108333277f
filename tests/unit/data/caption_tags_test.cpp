#include "data/caption_tags.h"

#include <cmath>
#include <map>
#include <vector>

#include "core/random.h"
#include "data_fixture.h"

namespace ldmtune::data {
namespace {

CaptionTags tags(bool shuffle, std::int64_t keep, double dropout) {
  CaptionConfig config;
  config.shuffle_tags = shuffle;
  config.keep_tokens = keep;
  config.tag_dropout = dropout;
  return CaptionTags(config);
}

using CaptionTagsTest = FolderTest;

const std::string kCaption = "1girl, red hair ,smiling,, in a park, noon";

TEST_F(CaptionTagsTest, LeaveCaptionsAloneUnlessAsked) {
  EXPECT_FALSE(tags(false, 2, 0).is_active());
  EXPECT_EQ(tags(false, 2, 0).apply(kCaption, 1, 0, 3), kCaption);
}

TEST_F(CaptionTagsTest, ShuffleIsTheDocumentedPermutation) {
  const std::vector<std::string> original{"1girl", "red hair", "smiling", "in a park", "noon"};
  std::map<std::string, int> seen;
  for (std::uint64_t draw = 0; draw < 200; ++draw) {
    std::string expected;
    for (const std::uint32_t place : permutation({9, Purpose::caption_tags, 2, draw}, 5)) {
      expected += (expected.empty() ? "" : ", ") + original[place];
    }
    const std::string found = tags(true, 0, 0).apply(kCaption, 9, 2, draw);
    EXPECT_EQ(found, expected);
    ++seen[found];
  }
  EXPECT_GT(seen.size(), 80u) << "of 120 orders";
  EXPECT_NE(tags(true, 0, 0).apply(kCaption, 9, 0, 0), tags(true, 0, 0).apply(kCaption, 9, 2, 0));
}

TEST_F(CaptionTagsTest, KeptTagsStayInFrontAndAreNeverDropped) {
  for (std::uint64_t draw = 0; draw < 100; ++draw) {
    const std::string found = tags(true, 2, 0.5).apply(kCaption, 4, 0, draw);
    EXPECT_TRUE(found.starts_with("1girl, red hair")) << found;
  }
  EXPECT_EQ(tags(true, 2, 1.0).apply(kCaption, 4, 0, 7), "1girl, red hair");
  EXPECT_EQ(tags(true, 9, 1.0).apply("a, b", 4, 0, 7), "a, b") << "fewer tags than are kept";
}

TEST_F(CaptionTagsTest, EachTagIsDroppedByItsOwnNumber) {
  int left = 0;
  for (std::uint64_t draw = 0; draw < 1000; ++draw) {
    std::string expected = "1girl";
    const RandomStream stream{4, Purpose::tag_dropout, 0, draw};
    const std::vector<std::string> others{"red hair", "smiling", "in a park", "noon"};
    for (std::size_t i = 0; i < others.size(); ++i) {
      if (stream.uniform(i) >= 0.25) expected += ", " + others[i], ++left;
    }
    EXPECT_EQ(tags(false, 1, 0.25).apply(kCaption, 4, 0, draw), expected);
  }
  EXPECT_NEAR(left / 4000.0, 0.75, 0.03);
}

TEST_F(CaptionTagsTest, MayLeaveNothing) {
  EXPECT_EQ(tags(true, 0, 1.0).apply(kCaption, 4, 0, 7), "");
  EXPECT_EQ(tags(true, 0, 0.0).apply("", 4, 0, 7), "");
  EXPECT_EQ(tags(true, 0, 0.0).apply(" , ,", 4, 0, 7), "");
}

TEST_F(CaptionTagsTest, BadSettingsAreNamed) {
  expect_says(error_of([] { tags(true, -1, 0); }), {"caption.keep_tokens", "-1"});
  expect_says(error_of([] { tags(true, 0, 1.5); }), {"caption.tag_dropout", "1.5"});
  expect_says(error_of([] { tags(true, 0, std::nan("")); }), {"caption.tag_dropout", "nan"});
}

}  // namespace
}  // namespace ldmtune::data
