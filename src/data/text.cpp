#include "data/text.h"

#include "core/error.h"

namespace ldmtune::data {
namespace {

bool is_continuation(std::string_view text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

// Bytes of the code point at `at`, 0 if it is malformed.
std::size_t code_point_length(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || !is_continuation(text, at + 1)) return 0;
  if (lead < 0xE0) return 2;
  const auto second = static_cast<unsigned char>(text[at + 1]);
  if (!is_continuation(text, at + 2)) return 0;
  if (lead < 0xF0) {
    const bool overlong = lead == 0xE0 && second < 0xA0;
    const bool surrogate = lead == 0xED && second >= 0xA0;
    return overlong || surrogate ? 0 : 3;
  }
  const bool overlong = lead == 0xF0 && second < 0x90;
  const bool too_large = lead > 0xF4 || (lead == 0xF4 && second >= 0x90);
  return overlong || too_large || !is_continuation(text, at + 3) ? 0 : 4;
}

}  // namespace

std::size_t find_bad_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = code_point_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n\f\v";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

void check_caption(std::string_view text, const std::string& where) {
  if (text.size() > kCaptionLimit) {
    fail_input(where, ": expected at most ", kCaptionLimit, " bytes of text, found ", text.size(), "; shorten it");
  }
  const auto nul = text.find('\0');
  if (nul != std::string_view::npos) {
    fail_input(where, ": expected text, found a NUL character at byte ", nul, "; remove it");
  }
  const auto bad = find_bad_utf8(text);
  if (bad != std::string_view::npos) {
    fail_input(where, ": expected UTF-8 text, found a malformed byte at ", bad, "; save the file as UTF-8");
  }
}

std::vector<Line> nonblank_lines(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    if (!trimmed(line).empty())
      lines.push_back({number, line.ends_with('\r') ? line.substr(0, line.size() - 1) : line});
  }
  return lines;
}

}  // namespace ldmtune::data
