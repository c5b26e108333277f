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

  /// BPE tokens of the text without special tokens, of any length.
  /// Errors: InputError for NUL, bad UTF-8, or more than kMaxTextBytes (model/text_normalizer.h).
  std::vector<std::int64_t> tokenize(const std::string& text) const;

  struct Encoded {
    std::vector<std::int64_t> input_ids;  ///< max_chunks * model_max_length ids: per chunk bos, up to model_max_length
                                          ///< - 2 tokens, eos, padding
    bool truncated = false;               ///< tokens did not fit and were dropped
  };
  Encoded encode(const std::string& text, std::int64_t model_max_length, std::int64_t max_chunks = 1) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
