#pragma once
// CLIP's text cleaning and word splitting, on UTF-8. Unicode tables: ICU's (NFC, case) and PCRE2's (classes); letters
// and cases that Unicode gained after the installed library's version count as symbols without case.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ldmtune::model {

/// Longest text that is tokenized, in bytes: a caption above it is a mistake (a whole file read as one caption).
inline constexpr std::size_t kMaxTextBytes = 256 * 1024;

/// Errors: InputError if `text` is above kMaxTextBytes, holds NUL, or is not UTF-8 (`what` names it: "caption").
void check_text(std::string_view text, std::string_view what);

/// NFC, then runs of white space as one blank, then lower case character by character (no context: a final sigma stays
/// sigma; capital dotted I becomes i and a combining dot). `text` is valid UTF-8.
std::string normalize_text(std::string_view text);

/// Splits normalized text into the words that byte-pair encoding sees: English contractions, runs of letters, single
/// digits, and runs of anything else that is not white space.
class WordSplitter {
 public:
  WordSplitter();
  ~WordSplitter();
  WordSplitter(WordSplitter&&) noexcept;

  /// Views into `text`, in order. `text` is valid UTF-8.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
