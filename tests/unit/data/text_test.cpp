#include "data/text.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace ldmtune::data {
namespace {

TEST(Text, GoodUtf8) {
  for (const char* text : {"", "plain", "caf\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\xA6\x8A", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(find_bad_utf8(text), std::string_view::npos) << text;
  }
}

TEST(Text, BadUtf8IsFoundWhereItStarts) {
  const std::vector<std::string> bad{"\x80",
                                     "\xC0\xAF",
                                     "\xC1\x81",
                                     "\xC3",
                                     "\xE2\x82",
                                     "\xE0\x80\x80",
                                     "\xED\xA0\x80",
                                     "\xF0\x80\x80\x80",
                                     "\xF4\x90\x80\x80",
                                     "\xF5\x80\x80\x80",
                                     "\xF0\x9F\xA6",
                                     "\xFF",
                                     "\xC3\x28"};
  for (const std::string& bytes : bad)
    EXPECT_EQ(find_bad_utf8("ok " + bytes + " ok"), 3u) << testing::PrintToString(bytes);
}

TEST(Text, CaptionsAreChecked) {
  EXPECT_NO_THROW(check_caption(std::string(kCaptionLimit, 'a'), "here"));
  EXPECT_THROW(check_caption(std::string(kCaptionLimit + 1, 'a'), "here"), InputError);
  EXPECT_THROW(check_caption(std::string("a\0b", 3), "here"), InputError);
  EXPECT_THROW(check_caption("\xFF", "here"), InputError);
}

TEST(Text, LinesKeepTheirNumbers) {
  const auto lines = nonblank_lines("\xEF\xBB\xBF first\r\n\n  \nfourth\nlast");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].text, " first");
  EXPECT_EQ(lines[1].number, 4u);
  EXPECT_EQ(lines[2].text, "last");
  EXPECT_TRUE(nonblank_lines("\n\n").empty());
}

}  // namespace
}  // namespace ldmtune::data
