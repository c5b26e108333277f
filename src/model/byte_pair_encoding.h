#pragma once
// Byte-pair encoding of one word (Sennrich et al., arXiv 1508.07909) over GPT-2's printable stand-ins for bytes, with
// CLIP's end-of-word mark.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ldmtune::model {

inline constexpr std::string_view kEndOfWord = "</w>";

using Vocabulary = std::unordered_map<std::string, std::int64_t>;

/// The printable character (UTF-8) that stands for each byte in vocab.json and merges.txt.
const std::array<std::string, 256>& byte_characters();

class BytePairEncoding {
 public:
  /// merges: pairs by falling priority. unknown_id stands for bytes that the vocabulary lacks; `source` names the
  /// merges' file for errors. Errors: InputError for a merge whose halves or result are not in the vocabulary, and for
  /// a vocabulary entry that no merge makes (a cut file), unless it is one of `whole_tokens`.
  BytePairEncoding(const Vocabulary& vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
                   const std::vector<std::string>& whole_tokens, std::int64_t unknown_id, const std::string& source);

  /// Appends the ids of a non-empty word. O(n log n).
  void encode(std::string_view word, std::vector<std::int64_t>& ids) const;

 private:
  struct Merge {
    std::int64_t rank, result;
  };
  struct PairHash {
    std::size_t operator()(const std::pair<std::int64_t, std::int64_t>& pair) const {
      return std::hash<std::uint64_t>()(static_cast<std::uint64_t>(pair.first) * 0x9e3779b97f4a7c15u +
                                        static_cast<std::uint64_t>(pair.second));
    }
  };
  const Merge* find(std::int64_t left, std::int64_t right) const;

  std::unordered_map<std::pair<std::int64_t, std::int64_t>, Merge, PairHash> merges_;
  std::array<std::int64_t, 256> inner_{}, last_{};  ///< ids of a byte inside a word and at its end
};

}  // namespace ldmtune::model
