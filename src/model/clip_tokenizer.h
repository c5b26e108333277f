#pragma once
// CLIP's byte-pair encoding, from vocab.json and merges.txt; token for token what transformers' CLIPTokenizer gives.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace ldmtune::model {

class CLIPTokenizer {
 public:
  /// `folder` holds vocab.json, merges.txt, and optionally tokenizer_config.json / special_tokens_map.json.
  explicit CLIPTokenizer(const std::filesystem::path& folder);
  ~CLIPTokenizer();
  CLIPTokenizer(CLIPTokenizer&&) noexcept;

  std::int64_t bos_token_id() const;
  std::int64_t eos_token_id() const;
  std::int64_t pad_token_id() const;
  std::int64_t vocab_size() const;
  /// 77 for SD; from tokenizer_config.json where it is there (never above the text encoder's positions; base_model sees
  /// to that).
  std::int64_t model_max_length() const;

  /// Hash of what decides the ids: vocabulary, merges, special and added tokens; however the files spell them.
  std::string sha256() const;

  /// Makes `content` stand for `count` new tokens (textual inversion); returns the first one's id, the others follow.
  /// Ids start at vocab_size() or `least_id`, if that is larger, and never repeat. Like transformers' added tokens it
  /// is found in the normalized text, so in any case, before words are split. The same token added again with the same
  /// count keeps its ids. Neither vocab_size() nor sha256() change. Errors: InputError if it is empty, holds white
  /// space or no UTF-8, is a token of the vocabulary already, or was added with another count.
  std::int64_t add_token(const std::string& content, std::int64_t count, std::int64_t least_id = 0);

  /// BPE tokens of the text without special tokens, of any length. Without `added_tokens` those of add_token are text.
  /// Errors: InputError for NUL, bad UTF-8, or more than kMaxTextBytes (model/text_normalizer.h).
  std::vector<std::int64_t> tokenize(const std::string& text, bool added_tokens = true) const;

  struct Encoded {
    std::vector<std::int64_t> input_ids;  ///< max_chunks * model_max_length ids: per chunk bos, up to model_max_length
                                          ///< - 2 tokens, eos, padding
    bool truncated = false;               ///< tokens did not fit and were dropped
  };
  Encoded encode(const std::string& text, std::int64_t model_max_length, std::int64_t max_chunks = 1,
                 bool added_tokens = true) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
