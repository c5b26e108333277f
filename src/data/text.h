#pragma once
// Small checks of text that comes from outside.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ldmtune::data {

/// Longest caption and template line, in bytes.
constexpr std::size_t kCaptionLimit = 64 * 1024;

/// Where `text` stops being UTF-8 (RFC 3629: no surrogates, no overlong forms); npos if it never does.
std::size_t find_bad_utf8(std::string_view text);

/// Without blanks and line ends at both ends.
std::string_view trimmed(std::string_view text);

/// Throws InputError naming `where` if `text` is no UTF-8, holds NUL or is longer than kCaptionLimit.
void check_caption(std::string_view text, const std::string& where);

/// The lines of a text, without their ends ("\n" or "\r\n") and without a byte order mark. Views into `text`.
struct Line {
  std::size_t number = 0;  ///< from 1
  std::string_view text;
};
std::vector<Line> nonblank_lines(std::string_view text);

}  // namespace ldmtune::data
