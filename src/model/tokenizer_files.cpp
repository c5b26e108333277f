#include "model/tokenizer_files.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/special_tokens.h"
#include "model/text_normalizer.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uintmax_t kMaxMergesBytes = 64u << 20;

Vocabulary read_vocabulary(const json& object, const fs::path& file) {
  if (!object.is_object() || object.empty()) fail_input(file.string(), ": expected an object of tokens and ids");
  Vocabulary vocabulary;
  vocabulary.reserve(object.size());
  std::map<std::int64_t, std::string> tokens;
  for (const auto& [token, value] : object.items()) {
    const std::int64_t id = read_token_id(value, file, token);
    if (const auto [other, is_new] = tokens.emplace(id, token); !is_new) {
      fail_input(file.string(), ": tokens \"", other->second, "\" and \"", token, "\" have the same id ", id);
    }
    vocabulary.emplace(token, id);
  }
  return vocabulary;
}

std::pair<std::string, std::string> split_merge(const std::string& line, const fs::path& file, std::size_t number) {
  const auto blank = line.find(' ');
  if (blank == 0 || blank == std::string::npos || blank + 1 == line.size() || line.find(' ', blank + 1) != line.npos) {
    fail_input(file.string(), ": line ", number, ": expected two tokens and one blank between them, found \"", line,
               "\"; the file is cut or is no merges.txt. Copy it again.");
  }
  return {line.substr(0, blank), line.substr(blank + 1)};
}

std::vector<std::pair<std::string, std::string>> read_merges(const fs::path& file) {
  const std::string text = store::read_text(file, kMaxMergesBytes);
  std::vector<std::pair<std::string, std::string>> merges;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    begin = end + 1;
    ++number;
    check_text(line, cat(file.string(), ": line ", number));
    if (line.starts_with("#version") || (line.empty() && begin >= text.size())) continue;
    merges.push_back(split_merge(line, file, number));
  }
  return merges;
}

/// tokenizer.json holds merges as "a b" or as ["a", "b"].
std::vector<std::pair<std::string, std::string>> read_merges(const json& list, const fs::path& file) {
  if (!list.is_array()) fail_input(file.string(), ": model.merges: expected a list, found ", list.type_name());
  std::vector<std::pair<std::string, std::string>> merges;
  for (const json& merge : list) {
    const bool is_pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (is_pair) {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else if (merge.is_string()) {
      merges.push_back(split_merge(merge.get<std::string>(), file, merges.size() + 1));
    } else {
      fail_input(file.string(), ": model.merges[", merges.size(), "]: expected two tokens, found ", merge.dump());
    }
  }
  return merges;
}

/// Vocabulary and merges from tokenizer.json, where it stands alone.
void read_tokenizer_json(const fs::path& file, TokenizerFiles& files) {
  const json content = store::read_json(file);
  const json* bpe = content.is_object() && content.contains("model") ? &content["model"] : nullptr;
  if (!bpe || !bpe->is_object() || bpe->value("type", json()) != "BPE" || !bpe->contains("vocab")) {
    fail_input(file.string(), ": expected a byte-pair encoding (model.type \"BPE\") as CLIP's tokenizer has it");
  }
  files.vocabulary = read_vocabulary((*bpe)["vocab"], file);
  files.merges = read_merges(bpe->value("merges", json()), file);
  files.merges_source = file.string();
}

}  // namespace

TokenizerFiles read_tokenizer_files(const fs::path& folder) {
  const fs::path vocabulary = folder / "vocab.json", merges = folder / "merges.txt", fast = folder / "tokenizer.json";
  if (!fs::is_directory(folder)) fail_input(folder.string(), ": no such folder; expected the base's tokenizer");
  TokenizerFiles files;
  if (fs::exists(vocabulary) && fs::exists(merges)) {
    files.vocabulary = read_vocabulary(store::read_json(vocabulary), vocabulary);
    files.merges = read_merges(merges);
    files.merges_source = merges.string();
  } else if (fs::exists(fast)) {
    read_tokenizer_json(fast, files);
  } else {
    fail_input(folder.string(), ": expected vocab.json and merges.txt, or tokenizer.json; found ",
               fs::exists(vocabulary) ? "vocab.json"
               : fs::exists(merges)   ? "merges.txt"
                                      : "none of them",
               fs::exists(vocabulary) || fs::exists(merges) ? " only" : "");
  }
  read_special_tokens(folder, files);
  return files;
}

}  // namespace ldmtune::model
