#pragma once
// What a tokenizer folder says: vocab.json and merges.txt (or tokenizer.json, all that transformers 5 saves), and the
// special tokens of tokenizer_config.json, special_tokens_map.json and added_tokens.json.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "model/byte_pair_encoding.h"

namespace ldmtune::model {

/// A token that is found in the text before anything else and never split.
struct WholeToken {
  std::string content;
  std::int64_t id = 0;
  bool normalized = false;  ///< sought in the normalized text (so in any case), else in the text as it is written
};

struct TokenizerFiles {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  std::string merges_source;  ///< file that the merges come from, for errors
  std::vector<WholeToken> whole_tokens;
  std::int64_t bos_token_id = 0, eos_token_id = 0, pad_token_id = 0, unk_token_id = 0;
  std::int64_t model_max_length = 77;
};

/// Errors: InputError naming the file and what is wrong in it.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& folder);

}  // namespace ldmtune::model
