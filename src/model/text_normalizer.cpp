#include "model/text_normalizer.h"

#include <algorithm>
#include <array>
#include <cstdint>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/utf8.h>

#include "core/error.h"

namespace ldmtune::model {
namespace {

// Unicode's White_Space property, spelled out: PCRE2's \s also counts U+180E.
#define LDMTUNE_WHITE_SPACE \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr char kWordPattern[] =
    R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}++|\p{N}|[^)" LDMTUNE_WHITE_SPACE
    R"(\p{L}\p{N}]++)";
#undef LDMTUNE_WHITE_SPACE

constexpr std::array<std::string_view, 2> kMarkers{"<|startoftext|>", "<|endoftext|>"};
constexpr UChar32 kCapitalDottedI = 0x130;
constexpr UChar32 kCombiningDotAbove = 0x307;

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x80; });
}

bool is_white_space(UChar32 c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// The code point at `at`, which moves past it; negative where the text is not UTF-8.
UChar32 next_codepoint(std::string_view text, std::int32_t& at) {
  UChar32 codepoint = 0;
  U8_NEXT(text.data(), at, static_cast<std::int32_t>(text.size()), codepoint);
  return codepoint;
}

void append(std::string& out, UChar32 codepoint) {
  std::array<std::uint8_t, 4> bytes{};
  std::int32_t size = 0;
  U8_APPEND_UNSAFE(bytes.data(), size, codepoint);
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(size));
}

void expect_icu(UErrorCode status, const char* what) {
  if (U_FAILURE(status)) fail("ICU cannot ", what, ": ", u_errorName(status), "; is its data installed (libicu)?");
}

/// NFC by Unicode 9's tables, which the tokenizers library has: to it a mark added since then is no combining one.
std::string compose(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  static const icu::UnicodeSet unicode9(u"[:age=9.0:]", status);
  static const icu::Normalizer2* const nfc = icu::Normalizer2::getNFCInstance(status);
  expect_icu(status, "set up Unicode normalization");
  static const icu::FilteredNormalizer2 normalizer(*nfc, unicode9);
  std::string composed;
  icu::StringByteSink<std::string> sink(&composed, static_cast<std::int32_t>(text.size()));
  normalizer.normalizeUTF8(0, {text.data(), static_cast<std::int32_t>(text.size())}, sink, nullptr, status);
  expect_icu(status, "normalize a text");
  return composed;
}

}  // namespace

void check_text(std::string_view text, std::string_view what) {
  if (text.size() > kMaxTextBytes) {
    fail_input(what, ": ", text.size(), " bytes long; expected at most ", kMaxTextBytes, ". Is it a whole file?");
  }
  if (const auto at = text.find('\0'); at != std::string_view::npos) {
    fail_input(what, ": NUL byte at offset ", at, "; expected text. Remove it.");
  }
  for (std::int32_t at = 0; at < static_cast<std::int32_t>(text.size());) {
    const std::int32_t begin = at;
    if (next_codepoint(text, at) >= 0) continue;
    fail_input(what, ": bad UTF-8 at byte ", begin, "; expected UTF-8. Convert it (iconv -t UTF-8).");
  }
}

std::string normalize_text(std::string_view text) {
  const std::string composed = is_ascii(text) ? std::string(text) : compose(text);
  std::string out;
  out.reserve(composed.size());
  bool in_space = false;
  for (std::int32_t at = 0; at < static_cast<std::int32_t>(composed.size());) {
    const UChar32 codepoint = next_codepoint(composed, at);
    if (is_white_space(codepoint)) {
      if (!in_space) out.push_back(' ');
      in_space = true;
      continue;
    }
    in_space = false;
    if (codepoint == kCapitalDottedI) {
      out.push_back('i');
      append(out, kCombiningDotAbove);
    } else {
      append(out, u_tolower(codepoint));
    }
  }
  return out;
}

struct WordSplitter::Impl {
  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
  ~Impl() {
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
};

WordSplitter::WordSplitter() : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kWordPattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error,
                              &offset, nullptr);
  if (!impl_->code) fail("PCRE2 ", PCRE2_MAJOR, ".", PCRE2_MINOR, " refused the word pattern at ", offset);
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE);  // merely slower where it is not available
  impl_->match = pcre2_match_data_create_from_pattern(impl_->code, nullptr);
  if (!impl_->match) fail("PCRE2: out of memory");
}

WordSplitter::~WordSplitter() = default;
WordSplitter::WordSplitter(WordSplitter&&) noexcept = default;

std::vector<std::string_view> WordSplitter::split(std::string_view text) const {
  std::vector<std::string_view> words;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    const int found = pcre2_match(impl_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, impl_->match, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) fail("PCRE2 error ", found, " while splitting text into words");
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(impl_->match);
    const std::string_view word = text.substr(span[0], span[1] - span[0]);
    at = span[1];
    if (std::find(kMarkers.begin(), kMarkers.end(), word) == kMarkers.end()) {
      words.push_back(word);
      continue;
    }
    // A marker that is not a special token by itself is kept from what stands beside it, then split like any word.
    words.push_back(word.substr(0, 2));
    words.push_back(word.substr(2, word.size() - 4));
    words.push_back(word.substr(word.size() - 2));
  }
  return words;
}

}  // namespace ldmtune::model
