#include "adapt/textual_inversion_file.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace ldmtune::adapt {

namespace {

using store::PyDict;
using store::PyValue;

/// A1111's number of the token '*', which readers of its files expect to find.
constexpr std::int64_t kAsteriskToken = 265;
/// Far above any prompt: a tensor with more rows is no embedding.
constexpr std::int64_t kMostVectors = 4096;
/// Keys that name a layout, not a word.
const std::set<std::string> kLayoutKeys{"*", "emb_params", "emp_params", "emp_params_out", "clip_l", "clip_g"};

/// A file's tensors by key and what else it says.
struct Contents {
  store::TensorMap tensors;
  std::string name, base_sha256, base_name;
  std::int64_t step = 0;
};

std::string text_of(const PyValue* value) {
  const auto* text = value ? value->get_if<std::string>() : nullptr;
  return text ? *text : "";
}

void add_tensors(const PyDict& dict, Contents& contents) {
  for (const auto& [key, value] : dict.items) {
    const auto* name = key.get_if<std::string>();
    const auto* tensor = value.get_if<at::Tensor>();
    if (name && tensor) contents.tensors[*name] = *tensor;
  }
}

Contents torch_contents(const std::filesystem::path& file) {
  const PyValue value = store::read_torch_file(file);
  Contents contents;
  if (const auto* tensor = value.get_if<at::Tensor>()) contents.tensors["*"] = *tensor;
  const auto* dict = value.get_if<PyDict>();
  if (!dict) return contents;
  const PyValue* by_word = dict->find("string_to_param");
  const auto* words = by_word ? by_word->get_if<PyDict>() : nullptr;
  add_tensors(words ? *words : *dict, contents);
  if (!words) return contents;
  contents.name = text_of(dict->find("name"));
  contents.base_sha256 = text_of(dict->find("sd_checkpoint"));
  contents.base_name = text_of(dict->find("sd_checkpoint_name"));
  const PyValue* step = dict->find("step");
  if (const auto* number = step ? step->get_if<std::int64_t>() : nullptr) contents.step = *number;
  return contents;
}

Contents safetensors_contents(const std::filesystem::path& file) {
  store::SafetensorsFile read = store::read_safetensors(file);
  Contents contents;
  contents.tensors = std::move(read.tensors);
  const bool has_words = contents.tensors.empty() || !kLayoutKeys.count(contents.tensors.begin()->first);
  if (!has_words) contents.name = read.metadata["name"];
  contents.base_sha256 = read.metadata["sd_checkpoint"];
  contents.base_name = read.metadata["sd_checkpoint_name"];
  const std::string& step = read.metadata["step"];
  std::from_chars(step.data(), step.data() + step.size(), contents.step);
  return contents;
}

bool is_safetensors(const std::filesystem::path& file) {
  if (file.extension() == ".safetensors") return true;
  std::ifstream stream(file, std::ios::binary);
  char bytes[9] = {};
  return stream.read(bytes, sizeof bytes) && bytes[8] == '{' && bytes[0] != 'P' && bytes[7] == 0;
}

/// (n, D) from (n, D) or (D).
at::Tensor checked(const std::filesystem::path& file, const std::string& key, const at::Tensor& tensor) {
  if (!tensor.is_floating_point() || tensor.dim() < 1 || tensor.dim() > 2 || tensor.numel() == 0 ||
      (tensor.dim() == 2 && tensor.size(0) > kMostVectors)) {
    fail_input(file.string(), ": ", key, ": expected an embedding, (vectors, width) numbers, found ",
               tensor.scalar_type(), " of shape ", tensor.sizes());
  }
  if (!at::isfinite(tensor).all().item<bool>()) {
    fail_input(file.string(), ": ", key, " holds NaN or infinite numbers; the training that made it diverged");
  }
  return (tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor).contiguous();
}

[[noreturn]] void refuse(const std::filesystem::path& file, const Contents& contents) {
  std::string found = cat(contents.tensors.size(), " tensors");
  if (!contents.tensors.empty()) found += ", the first is " + contents.tensors.begin()->first;
  fail_input(file.string(),
             ": no textual inversion embedding: expected string_to_param, emb_params, emp_params, clip_l "
             "and clip_g, or vectors of one width by word; found ",
             found);
}

/// SDXL's pair.
Embedding read_pair(const std::filesystem::path& file, const Contents& contents) {
  const auto first = contents.tensors.find("clip_l"), second = contents.tensors.find("clip_g");
  if (first == contents.tensors.end() || second == contents.tensors.end()) {
    fail_input(file.string(), ": expected clip_l and clip_g, one for each of SDXL's text encoders, found only ",
               first == contents.tensors.end() ? "clip_g" : "clip_l");
  }
  Embedding embedding;
  embedding.vectors = checked(file, "clip_l", first->second);
  embedding.second_vectors = checked(file, "clip_g", second->second);
  if (embedding.vectors.size(0) != embedding.second_vectors.size(0)) {
    fail_input(file.string(), ": expected as many vectors in clip_l as in clip_g, found ", embedding.vectors.size(0),
               " and ", embedding.second_vectors.size(0));
  }
  return embedding;
}

/// Several of SDXL's pairs; none where the file holds something else.
std::vector<Embedding> read_pairs(const std::filesystem::path& file, const Contents& contents) {
  std::map<std::string, Contents> by_word;
  for (const auto& [key, tensor] : contents.tensors) {
    const std::size_t dot = key.rfind('.');
    const std::string part = dot == std::string::npos ? "" : key.substr(dot + 1);
    if (part != "clip_l" && part != "clip_g") return {};
    by_word[key.substr(0, dot)].tensors.emplace(part, tensor);
  }
  std::vector<Embedding> embeddings;
  for (const auto& [word, pair] : by_word) {
    embeddings.push_back(read_pair(file, pair));
    embeddings.back().token = word;
  }
  return embeddings;
}

std::vector<Embedding> read_all(const std::filesystem::path& file, Contents& contents) {
  if (contents.tensors.count("clip_l") || contents.tensors.count("clip_g")) return {read_pair(file, contents)};
  if (std::vector<Embedding> pairs = read_pairs(file, contents); !pairs.empty()) return pairs;
  if (contents.tensors.count("emp_params") && contents.tensors.erase("emp_params_out")) {
    LDMTUNE_LOG(warning) << file.string()
                         << ": emp_params_out (OneTrainer's vectors behind the text encoder) is left out";
  }
  std::vector<Embedding> embeddings;
  for (const auto& [key, tensor] : contents.tensors) {
    Embedding embedding;
    embedding.vectors = checked(file, key, tensor);
    if (!kLayoutKeys.count(key)) embedding.token = key;
    if (!embeddings.empty() && embedding.vectors.size(1) != embeddings.front().vectors.size(1)) refuse(file, contents);
    embeddings.push_back(std::move(embedding));
  }
  return embeddings;
}

}  // namespace

std::vector<Embedding> read_embeddings(const std::filesystem::path& file) {
  Contents contents = is_safetensors(file) ? safetensors_contents(file) : torch_contents(file);
  if (contents.tensors.empty()) refuse(file, contents);
  std::vector<Embedding> embeddings = read_all(file, contents);
  for (Embedding& embedding : embeddings) {
    if (embeddings.size() == 1 && !contents.name.empty()) embedding.token = contents.name;
    if (embedding.token.empty()) embedding.token = file.stem().string();
    embedding.step = contents.step;
    embedding.base_sha256 = contents.base_sha256;
    embedding.base_name = contents.base_name;
  }
  return embeddings;
}

EmbeddingFormat parse_embedding_format(const std::string& name) {
  if (name == "a1111") return EmbeddingFormat::a1111;
  if (name == "diffusers") return EmbeddingFormat::diffusers;
  if (name == "kohya") return EmbeddingFormat::kohya;
  fail_input("option format: expected a1111, diffusers or kohya (an embedding's formats), found \"", name, "\"");
}

namespace {

PyValue text_or_none(const std::string& text) { return text.empty() ? PyValue() : PyValue(text); }

/// `key` -> the embedding's vectors, or SDXL's pair.
store::TensorMap tensors_of(const Embedding& embedding, const std::string& key) {
  const at::Tensor vectors = embedding.vectors.detach().cpu().contiguous();
  if (!embedding.second_vectors.defined()) return {{key, vectors}};
  return {{"clip_l", vectors}, {"clip_g", embedding.second_vectors.detach().cpu().contiguous()}};
}

PyDict dict_of(const store::TensorMap& tensors) {
  PyDict dict;
  for (const auto& [key, tensor] : tensors) dict.items.emplace_back(key, tensor);
  return dict;
}

PyDict a1111_dict(const Embedding& embedding) {
  if (embedding.second_vectors.defined()) return dict_of(tensors_of(embedding, ""));
  PyDict tokens, dict;
  tokens.items.emplace_back("*", kAsteriskToken);
  dict.items.emplace_back("string_to_token", tokens);
  dict.items.emplace_back("string_to_param", dict_of(tensors_of(embedding, "*")));
  dict.items.emplace_back("name", embedding.token);
  dict.items.emplace_back("step", embedding.step);
  dict.items.emplace_back("sd_checkpoint", text_or_none(embedding.base_sha256));
  dict.items.emplace_back("sd_checkpoint_name", text_or_none(embedding.base_name));
  return dict;
}

void write_safetensors(const std::filesystem::path& file, const std::vector<Embedding>& embeddings, bool by_word) {
  const Embedding& first = embeddings.front();
  const bool several_pairs = embeddings.size() > 1 && first.second_vectors.defined();
  store::TensorMap tensors;
  for (const Embedding& embedding : embeddings) {
    for (const auto& [key, tensor] : tensors_of(embedding, by_word ? embedding.token : "emb_params")) {
      tensors.emplace((several_pairs ? embedding.token + "." : "") + key, tensor);
    }
  }
  store::Metadata metadata{{"format", "pt"}, {"step", std::to_string(first.step)}};
  // Where no key is the word; peers take the file's name for it.
  if (!by_word || first.second_vectors.defined()) metadata["name"] = first.token;
  if (!first.base_sha256.empty()) metadata["sd_checkpoint"] = first.base_sha256;
  if (!first.base_name.empty()) metadata["sd_checkpoint_name"] = first.base_name;
  store::write_safetensors(file, tensors, metadata);
}

}  // namespace

void write_embeddings(const std::filesystem::path& file, EmbeddingFormat format,
                      const std::vector<Embedding>& embeddings) {
  const auto expect = [&](std::initializer_list<const char*> extensions, const char* expected) {
    for (const char* extension : extensions) {
      if (file.extension() == extension) return;
    }
    fail_input(file.string(), ": expected a file name ending in ", expected, " for this format of embeddings");
  };
  if (embeddings.size() > 1 && format != EmbeddingFormat::diffusers) {
    fail_input(file.string(), ": this format holds one embedding, and ", embeddings.size(),
               " were trained; write each by "
               "its token, or all in the format diffusers");
  }
  switch (format) {
    case EmbeddingFormat::a1111:
      expect({".pt"}, ".pt");
      return store::write_torch_file(file, a1111_dict(embeddings.front()));
    case EmbeddingFormat::diffusers:
      expect({".safetensors"}, ".safetensors");
      return write_safetensors(file, embeddings, true);
    case EmbeddingFormat::kohya:
      expect({".pt", ".safetensors"}, ".pt or .safetensors");
      if (file.extension() == ".safetensors") return write_safetensors(file, embeddings, false);
      return store::write_torch_file(file, dict_of(tensors_of(embeddings.front(), "emb_params")));
  }
}

}  // namespace ldmtune::adapt
