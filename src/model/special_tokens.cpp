#include "model/special_tokens.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.h"
#include "model/text_normalizer.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kStartOfText[] = "<|startoftext|>";
constexpr char kEndOfText[] = "<|endoftext|>";
/// In the order in which they become whole tokens: of two with the same content the later one decides how it is sought.
constexpr std::array<const char*, 4> kSpecialNames{"bos_token", "eos_token", "unk_token", "pad_token"};
constexpr std::int64_t kDefaultMaxLength = 77;
constexpr std::int64_t kMaxVocabulary = 1 << 20;

/// The object in `file`; an empty one where there is no such file.
json read_object(const fs::path& file) {
  if (!fs::exists(file)) return json::object();
  json value = store::read_json(file);
  if (!value.is_object()) fail_input(file.string(), ": expected a JSON object, found ", value.type_name());
  return value;
}

/// The value of `key`, or null where it is absent.
const json& value_or_null(const json& object, const std::string& key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

/// A token as the files spell it: plain text, or an object with flags.
struct SpelledToken {
  std::string content;
  bool normalized = false;
};

/// Nothing for null. Blanks beside a token never become tokens, so the flags lstrip and rstrip change nothing.
std::optional<SpelledToken> read_token(const json& value, const fs::path& file, const std::string& key) {
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) return SpelledToken{value.get<std::string>()};
  const bool is_token = value.is_object() && value_or_null(value, "content").is_string();
  if (!is_token) fail_input(file.string(), ": ", key, ": expected a token, found ", value.dump());
  if (value_or_null(value, "single_word") == true) {
    fail_input(file.string(), ": ", key, ": expected single_word false (whole-word matching is not built), found true");
  }
  const json& normalized = value_or_null(value, "normalized");
  const bool default_normalized = value_or_null(value, "special") != true;
  return SpelledToken{value["content"].get<std::string>(),
                      normalized.is_boolean() ? normalized.get<bool>() : default_normalized};
}

class SpecialTokenReader {
 public:
  SpecialTokenReader(const fs::path& folder, TokenizerFiles& files)
      : folder_(folder),
        files_(files),
        config_(read_object(folder / "tokenizer_config.json")),
        decoder_(value_or_null(config_, "added_tokens_decoder")),
        map_(decoder_.is_null() ? read_object(folder / "special_tokens_map.json") : json::object()) {
    for (const auto& [token, id] : files_.vocabulary) next_id_ = std::max(next_id_, id + 1);
  }

  void read() {
    for (std::size_t i = 0; i < kSpecialNames.size(); ++i) special_[i] = read_special(kSpecialNames[i]);
    if (decoder_.is_null()) {
      add_added_tokens_file();
      add_tokenizer_json();
    } else {
      add_decoder();
    }
    for (const WholeToken& token : files_.whole_tokens) added_.insert(token.content);
    for (std::size_t i = 0; i < kSpecialNames.size(); ++i) add_special(special_[i], kSpecialNames[i]);
    for (const char* name : {"additional_special_tokens", "extra_special_tokens"}) add_extra(name);
    files_.bos_token_id = files_.vocabulary.at(special_[0].content);
    files_.eos_token_id = files_.vocabulary.at(special_[1].content);
    files_.unk_token_id = files_.vocabulary.at(special_[2].content);
    files_.pad_token_id = files_.vocabulary.at(special_[3].content);
    files_.model_max_length = read_max_length();
  }

 private:
  fs::path config_file() const { return folder_ / "tokenizer_config.json"; }
  fs::path map_file() const { return folder_ / "special_tokens_map.json"; }

  SpelledToken read_special(const std::string& name) const {
    if (const auto token = read_token(value_or_null(map_, name), map_file(), name)) return *token;
    if (const auto token = read_token(value_or_null(config_, name), config_file(), name)) return *token;
    return {name == "bos_token" ? kStartOfText : kEndOfText};
  }

  void put(const SpelledToken& token) {
    if (token.content.empty()) return;
    check_text(token.content, cat(folder_.string(), ": an added token"));
    const auto [entry, is_new] = files_.vocabulary.emplace(token.content, next_id_);
    if (is_new) ++next_id_;
    std::erase_if(files_.whole_tokens, [&](const WholeToken& other) { return other.content == token.content; });
    files_.whole_tokens.push_back({token.content, entry->second, token.normalized});
  }

  /// A token whose id the file gives: it must be the one that the vocabulary has, or the next free one.
  void put_at(std::int64_t id, const SpelledToken& token, const fs::path& file) {
    const auto found = files_.vocabulary.find(token.content);
    const std::int64_t expected = found == files_.vocabulary.end() ? next_id_ : found->second;
    if (id != expected) {
      fail_input(file.string(), ": token \"", token.content, "\": expected id ", expected,
                 " (the vocabulary's), found ", id, "; the files belong to different tokenizers");
    }
    put(token);
  }

  void add_decoder() {
    const json& decoder = decoder_;
    if (!decoder.is_object()) fail_input(config_file().string(), ": added_tokens_decoder: expected an object");
    std::map<std::int64_t, SpelledToken> by_id;
    for (const auto& [id, value] : decoder.items()) {
      const auto token = read_token(value, config_file(), "added_tokens_decoder." + id);
      const bool is_number = !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
      if (!token || !is_number) {
        fail_input(config_file().string(), ": added_tokens_decoder: expected ids and tokens, found \"", id, "\"");
      }
      by_id.emplace(std::stoll(id), *token);
    }
    for (const auto& [id, token] : by_id) put_at(id, token, config_file());
  }

  void add_added_tokens_file() {
    const fs::path file = folder_ / "added_tokens.json";
    const json tokens = read_object(file);
    std::map<std::int64_t, std::string> by_id;
    for (const auto& [token, id] : tokens.items()) by_id.emplace(read_token_id(id, file, token), token);
    for (const auto& [id, token] : by_id) {
      const auto same = [&text = token](const SpelledToken& special) { return special.content == text; };
      put_at(id, {token, std::none_of(special_.begin(), special_.end(), same)}, file);
    }
  }

  void add_tokenizer_json() {
    const fs::path file = folder_ / "tokenizer.json";
    const json content = read_object(file);
    for (const json& value : value_or_null(content, "added_tokens")) {
      const auto token = read_token(value, file, "added_tokens");
      if (!token || !value.is_object()) fail_input(file.string(), ": added_tokens: expected tokens with ids");
      put_at(read_token_id(value_or_null(value, "id"), file, token->content), *token, file);
    }
  }

  void add_special(const SpelledToken& token, const std::string& name) {
    if (!files_.vocabulary.count(token.content)) {
      fail_input(folder_.string(), ": ", name, " is \"", token.content, "\", which the vocabulary lacks");
    }
    if (!added_.count(token.content)) put(token);
  }

  void add_extra(const std::string& name) {
    const json& list = value_or_null(map_, name).is_array() ? map_[name] : value_or_null(config_, name);
    if (!list.is_array()) return;
    for (const json& value : list) {
      const auto token = read_token(value, config_file(), name);
      if (token && !added_.count(token->content)) put(*token);
    }
  }

  std::int64_t read_max_length() const {
    const json& value = value_or_null(config_, "model_max_length");
    if (value.is_null()) return kDefaultMaxLength;
    if (!value.is_number() || value < 3) {
      fail_input(config_file().string(), ": model_max_length: expected at least 3, found ", value.dump());
    }
    // transformers writes 1e30 where no limit is known.
    if (!value.is_number_integer() || value > kMaxVocabulary) return kDefaultMaxLength;
    return value.get<std::int64_t>();
  }

  const fs::path folder_;
  TokenizerFiles& files_;
  const json config_, decoder_, map_;
  std::int64_t next_id_ = 0;
  std::array<SpelledToken, kSpecialNames.size()> special_;
  std::set<std::string> added_;  ///< declared by files other than as special tokens
};

}  // namespace

std::int64_t read_token_id(const json& value, const fs::path& file, const std::string& token) {
  if (!value.is_number_integer() || value < 0 || value >= kMaxVocabulary) {
    fail_input(file.string(), ": token \"", token, "\": expected an id in 0..", kMaxVocabulary - 1, ", found ",
               value.dump());
  }
  return value.get<std::int64_t>();
}

void read_special_tokens(const fs::path& folder, TokenizerFiles& files) { SpecialTokenReader(folder, files).read(); }

}  // namespace ldmtune::model
