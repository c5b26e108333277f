#pragma once
// Special and added tokens of a tokenizer folder, with the precedence of transformers 5.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/tokenizer_files.h"

namespace ldmtune::model {

/// An id in a tokenizer's file. Errors: InputError naming file and token.
std::int64_t read_token_id(const nlohmann::json& value, const std::filesystem::path& file, const std::string& token);

/// Fills whole_tokens, the special ids and model_max_length of `files`, whose vocabulary is read; added tokens join the
/// vocabulary. tokenizer_config.json's added_tokens_decoder goes first; where it has none, added_tokens.json and
/// tokenizer.json's added_tokens, and special_tokens_map.json overrides tokenizer_config.json. Defaults are CLIP's.
void read_special_tokens(const std::filesystem::path& folder, TokenizerFiles& files);

}  // namespace ldmtune::model
