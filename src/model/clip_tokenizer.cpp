#include "model/clip_tokenizer.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "model/byte_pair_encoding.h"
#include "model/text_normalizer.h"
#include "model/tokenizer_files.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

/// Words of captions repeat; longer ones or more of them than this are not worth the memory.
constexpr std::size_t kMaxCachedWords = 1 << 16;
constexpr std::size_t kMaxCachedWordBytes = 128;

BytePairEncoding make_encoding(const TokenizerFiles& files) {
  std::vector<std::string> whole;
  for (const WholeToken& token : files.whole_tokens) whole.push_back(token.content);
  return {files.vocabulary, files.merges, whole, files.unk_token_id, files.merges_source};
}

/// Finds whole tokens in a text: leftmost first, of those that start together the longest.
class WholeTokenFinder {
 public:
  WholeTokenFinder(const std::vector<WholeToken>& tokens, bool normalized) {
    for (const WholeToken& token : tokens) {
      if (token.normalized != normalized) continue;
      add(normalized ? normalize_text(token.content) : token.content, token.id, 1);
    }
  }

  /// `content` as it stands in the text that is scanned; `count` ids from `id` on.
  void add(std::string content, std::int64_t id, std::int64_t count) {
    tokens_.push_back({std::move(content), id, count});
  }

  /// Calls on_text with what lies between whole tokens, on_token with their ids, in order.
  template <class OnText, class OnToken>
  void scan(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::vector<std::size_t> next(tokens_.size(), 0);
    for (std::size_t i = 0; i < tokens_.size(); ++i) next[i] = text.find(tokens_[i].content);
    std::size_t at = 0;
    while (true) {
      const std::size_t best = leftmost_longest(next);
      if (best == tokens_.size()) break;
      const std::size_t begin = next[best];
      if (begin > at) on_text(text.substr(at, begin - at));
      for (std::int64_t i = 0; i < tokens_[best].count; ++i) on_token(tokens_[best].id + i);
      at = begin + tokens_[best].content.size();
      for (std::size_t i = 0; i < tokens_.size(); ++i) {
        if (next[i] < at) next[i] = text.find(tokens_[i].content, at);
      }
    }
    if (at < text.size()) on_text(text.substr(at));
  }

 private:
  std::size_t leftmost_longest(const std::vector<std::size_t>& next) const {
    std::size_t best = tokens_.size();
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (next[i] == std::string_view::npos) continue;
      const bool better = best == tokens_.size() || next[i] < next[best] ||
                          (next[i] == next[best] && tokens_[i].content.size() > tokens_[best].content.size());
      if (better) best = i;
    }
    return best;
  }

  struct Token {
    std::string content;
    std::int64_t id, count;
  };
  std::vector<Token> tokens_;
};

/// Errors: InputError if no prompt could hold this token.
void check_token(const std::string& content, std::int64_t count) {
  check_text(content, "placeholder token");
  const auto is_blank = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  if (content.empty() || std::any_of(content.begin(), content.end(), is_blank)) {
    fail_input("placeholder token '", content, "': expected a word without white space, such as <zorp>");
  }
  if (count < 1) fail_input("placeholder token '", content, "': expected 1 vector or more, found ", count);
}

}  // namespace

struct CLIPTokenizer::Impl {
  explicit Impl(TokenizerFiles read)
      : files(std::move(read)),
        encoding(make_encoding(files)),
        written_tokens(files.whole_tokens, false),
        normalized_tokens(files.whole_tokens, true),
        plain_tokens(normalized_tokens) {}

  void append_word(std::string_view word, std::vector<std::int64_t>& ids) {
    if (word.size() > kMaxCachedWordBytes) return encoding.encode(word, ids);
    const auto found = cache.find(std::string(word));
    if (found != cache.end()) {
      ids.insert(ids.end(), found->second.begin(), found->second.end());
      return;
    }
    std::vector<std::int64_t> word_ids;
    encoding.encode(word, word_ids);
    ids.insert(ids.end(), word_ids.begin(), word_ids.end());
    if (cache.size() < kMaxCachedWords) cache.emplace(word, std::move(word_ids));
  }

  std::vector<std::int64_t> tokenize(std::string_view text, bool with_added) {
    std::vector<std::int64_t> ids;
    const auto on_token = [&](std::int64_t id) { ids.push_back(id); };
    const auto on_words = [&](std::string_view normalized) {
      for (const std::string_view word : splitter.split(normalized)) append_word(word, ids);
    };
    const auto on_written = [&](std::string_view written) {
      (with_added ? normalized_tokens : plain_tokens).scan(normalize_text(written), on_words, on_token);
    };
    const std::lock_guard lock(mutex);
    written_tokens.scan(text, on_written, on_token);
    return ids;
  }

  bool is_known(const std::string& content) {
    for (const std::string& token : {content, normalize_text(content)}) {
      if (files.vocabulary.count(token) || files.vocabulary.count(token + std::string(kEndOfWord))) return true;
    }
    return tokenize(content, false).size() == 1;
  }

  std::int64_t add_token(const std::string& content, std::int64_t count, std::int64_t least_id) {
    const std::string sought = normalize_text(content);
    if (const auto found = added.find(sought); found != added.end()) {
      if (found->second.second == count) return found->second.first;
      fail_input("placeholder token '", content, "': there already with ", found->second.second,
                 " vectors, and cannot stand for ", count, " too");
    }
    if (is_known(content)) {
      fail_input("placeholder token '", content,
                 "': a token of the base's vocabulary already; choose a word that it does not know, such as <", content,
                 "-1>");
    }
    next_id = std::max({next_id, least_id, static_cast<std::int64_t>(files.vocabulary.size())});
    const std::int64_t first = std::exchange(next_id, next_id + count);
    const std::lock_guard lock(mutex);
    normalized_tokens.add(sought, first, count);
    added.emplace(sought, std::pair(first, count));
    return first;
  }

  const TokenizerFiles files;
  const BytePairEncoding encoding;
  const WholeTokenFinder written_tokens;
  WholeTokenFinder normalized_tokens;                                  ///< with those of add_token
  const WholeTokenFinder plain_tokens;                                 ///< without
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> added;  ///< normalized content -> first id, count
  std::int64_t next_id = 0;
  const WordSplitter splitter;
  std::mutex mutex;  ///< guards the cache, the splitter's scratch memory and added tokens
  std::unordered_map<std::string, std::vector<std::int64_t>> cache;
};

CLIPTokenizer::CLIPTokenizer(const std::filesystem::path& folder)
    : impl_(std::make_unique<Impl>(read_tokenizer_files(folder))) {}
CLIPTokenizer::~CLIPTokenizer() = default;
CLIPTokenizer::CLIPTokenizer(CLIPTokenizer&&) noexcept = default;

std::int64_t CLIPTokenizer::bos_token_id() const { return impl_->files.bos_token_id; }
std::int64_t CLIPTokenizer::eos_token_id() const { return impl_->files.eos_token_id; }
std::int64_t CLIPTokenizer::pad_token_id() const { return impl_->files.pad_token_id; }
std::int64_t CLIPTokenizer::vocab_size() const { return static_cast<std::int64_t>(impl_->files.vocabulary.size()); }
std::int64_t CLIPTokenizer::model_max_length() const { return impl_->files.model_max_length; }

std::string CLIPTokenizer::sha256() const {
  const TokenizerFiles& files = impl_->files;
  std::ostringstream text;
  for (const auto& [token, id] : std::map(files.vocabulary.begin(), files.vocabulary.end())) {
    text << token << ' ' << id << '\n';
  }
  for (const auto& [left, right] : files.merges) text << left << ' ' << right << '\n';
  std::map<std::string, bool> whole;  // by name: the files' order is of no matter
  for (const WholeToken& token : files.whole_tokens) whole.emplace(token.content, token.normalized);
  for (const auto& [content, normalized] : whole) text << content << ' ' << normalized << '\n';
  text << files.bos_token_id << ' ' << files.eos_token_id << ' ' << files.pad_token_id << ' ' << files.unk_token_id;
  return store::sha256_text(text.str());
}

std::int64_t CLIPTokenizer::add_token(const std::string& content, std::int64_t count, std::int64_t least_id) {
  check_token(content, count);
  return impl_->add_token(content, count, least_id);
}

std::vector<std::int64_t> CLIPTokenizer::tokenize(const std::string& text, bool added_tokens) const {
  check_text(text, "caption");
  return impl_->tokenize(text, added_tokens);
}

CLIPTokenizer::Encoded CLIPTokenizer::encode(const std::string& text, std::int64_t model_max_length,
                                             std::int64_t max_chunks, bool added_tokens) const {
  if (model_max_length < 3 || max_chunks < 1) {
    fail_input("tokenizer: expected model_max_length of at least 3 and caption.max_chunks of at least 1, found ",
               model_max_length, " and ", max_chunks);
  }
  const std::vector<std::int64_t> tokens = tokenize(text, added_tokens);
  const auto room = static_cast<std::size_t>(model_max_length - 2);
  Encoded encoded;
  encoded.input_ids.reserve(static_cast<std::size_t>(model_max_length * max_chunks));
  std::size_t at = 0;
  for (std::int64_t chunk = 1; chunk <= max_chunks; ++chunk) {
    const std::size_t end = std::min(at + room, tokens.size());
    encoded.input_ids.push_back(bos_token_id());
    encoded.input_ids.insert(encoded.input_ids.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at),
                             tokens.begin() + static_cast<std::ptrdiff_t>(end));
    encoded.input_ids.push_back(eos_token_id());
    encoded.input_ids.resize(static_cast<std::size_t>(chunk * model_max_length), pad_token_id());
    at = end;
  }
  encoded.truncated = at < tokens.size();
  return encoded;
}

}  // namespace ldmtune::model
