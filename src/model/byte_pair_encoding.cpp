#include "model/byte_pair_encoding.h"

#include <queue>
#include <unordered_set>

#include "core/error.h"

namespace ldmtune::model {
namespace {

/// UTF-8 of a character below U+0800.
std::string utf8(unsigned codepoint) {
  if (codepoint < 0x80) return {static_cast<char>(codepoint)};
  return {static_cast<char>(0xc0 | (codepoint >> 6)), static_cast<char>(0x80 | (codepoint & 0x3f))};
}

std::array<std::string, 256> make_byte_characters() {
  std::array<std::string, 256> characters;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters[byte] = utf8(printable ? byte : next++);
  }
  return characters;
}

std::int64_t id_or(const Vocabulary& vocabulary, const std::string& token, std::int64_t fallback) {
  const auto found = vocabulary.find(token);
  return found == vocabulary.end() ? fallback : found->second;
}

/// One symbol of the word being merged, in a doubly linked list by index.
struct Symbol {
  std::int64_t id;
  std::int64_t previous, next;  ///< -1 at the ends
  bool alive = true;
};

/// A pair that may be merged: lowest rank first, then leftmost.
struct Candidate {
  std::int64_t rank, position, result, left, right;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const std::array<std::string, 256> characters = make_byte_characters();
  return characters;
}

BytePairEncoding::BytePairEncoding(const Vocabulary& vocabulary,
                                   const std::vector<std::pair<std::string, std::string>>& merges,
                                   const std::vector<std::string>& whole_tokens, std::int64_t unknown_id,
                                   const std::string& source) {
  std::unordered_set<std::string> made(whole_tokens.begin(), whole_tokens.end());
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const std::string& inner = byte_characters()[byte];
    const std::string last = inner + std::string(kEndOfWord);
    inner_[byte] = id_or(vocabulary, inner, unknown_id);
    last_[byte] = id_or(vocabulary, last, unknown_id);
    made.insert(inner);
    made.insert(last);
  }
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    for (const std::string& token : {left, right, left + right}) {
      if (vocabulary.count(token)) continue;
      fail_input(source, ": merge ", rank + 1, " (\"", left, " ", right, "\") needs the token \"", token,
                 "\", which the vocabulary lacks; the file is cut or belongs to another vocabulary. Copy both again.");
    }
    const std::int64_t result = vocabulary.at(left + right);
    merges_.insert_or_assign({vocabulary.at(left), vocabulary.at(right)},
                             Merge{static_cast<std::int64_t>(rank), result});
    made.insert(left + right);
  }
  const std::string* missing = nullptr;
  for (const auto& [token, id] : vocabulary) {
    if (!made.count(token) && (!missing || id < vocabulary.at(*missing))) missing = &token;
  }
  if (missing) {
    fail_input(source, ": ", merges.size(), " merges, and none makes the vocabulary's token \"", *missing,
               "\"; the file is cut or belongs to another vocabulary. Copy both again.");
  }
}

const BytePairEncoding::Merge* BytePairEncoding::find(std::int64_t left, std::int64_t right) const {
  const auto found = merges_.find({left, right});
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoding::encode(std::string_view word, std::vector<std::int64_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto size = static_cast<std::int64_t>(word.size());
  for (std::int64_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    const bool is_last = i + 1 == size;
    symbols.push_back({is_last ? last_[byte] : inner_[byte], i - 1, is_last ? -1 : i + 1});
  }
  const auto at = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int64_t left) {
    if (left < 0 || at(left).next < 0) return;
    const std::int64_t right_id = at(at(left).next).id;
    if (const Merge* merge = find(at(left).id, right_id)) {
      queue.push({merge->rank, left, merge->result, at(left).id, right_id});
    }
  };
  for (std::int64_t i = 0; i + 1 < size; ++i) consider(i);

  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = at(candidate.position);
    // A candidate is stale once a neighbour has been merged away or changed.
    if (!left.alive || left.next < 0 || left.id != candidate.left || at(left.next).id != candidate.right) continue;
    Symbol& right = at(left.next);
    left.id = candidate.result;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) at(left.next).previous = candidate.position;
    consider(left.previous);
    consider(candidate.position);
  }
  for (std::int64_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace ldmtune::model
