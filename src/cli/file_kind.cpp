#include "cli/file_kind.h"

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <set>
#include <vector>

#include "core/error.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

/// Larger torch files are whole models: nothing else is, and they are not read twice.
constexpr std::uintmax_t kLargestAdapter = std::uintmax_t{2} << 30;
/// Files of embeddings hold one tensor a word.
constexpr std::size_t kMostWords = 256;

bool starts_with_any(const std::string& name, std::initializer_list<const char*> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const char* prefix) { return name.starts_with(prefix); });
}

bool contains_any(const std::string& name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return name.find(part) != std::string::npos; });
}

/// "768.k.linear.0.weight".
bool is_of_hypernetwork(const std::string& name) {
  const std::size_t digits = name.find_first_not_of("0123456789");
  return digits != 0 && digits != std::string::npos && starts_with_any(name.substr(digits), {".k.linear", ".v.linear"});
}

bool is_of_lora(const std::string& name) {
  return contains_any(name, {"lora_", ".lora.", "_lora.", "hada_", "lokr_", "dora_scale", "oft_"});
}

bool is_of_base(const std::string& name) {
  return starts_with_any(name, {"model.diffusion_model.", "cond_stage_model.", "conditioner.embedders.",
                                "first_stage_model.", "control_model."}) ||
         contains_any(name, {"joint_blocks.", "double_blocks."});
}

bool is_of_vae(const std::string& name) {
  return starts_with_any(name, {"encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss."});
}

bool is_of_weights(const std::string& name) {
  return starts_with_any(name, {"unet.", "text_encoder.", "text_encoder_2."});
}

bool is_embedding_key(const std::string& name) {
  static const std::set<std::string> keys{"string_to_param", "emb_params", "emp_params", "clip_l", "clip_g"};
  return keys.count(name) > 0 || name.ends_with(".clip_l") || name.ends_with(".clip_g");
}

FileKind kind_of_names(const std::vector<std::string>& names, bool all_are_vectors) {
  const auto any = [&](const std::function<bool(const std::string&)>& test) {
    return std::any_of(names.begin(), names.end(), test);
  };
  const auto all = [&](const std::function<bool(const std::string&)>& test) {
    return !names.empty() && std::all_of(names.begin(), names.end(), test);
  };
  if (all(is_of_hypernetwork)) return FileKind::hypernetwork;
  if (any(is_of_lora)) return FileKind::lora;
  if (any(is_of_base)) return FileKind::base;
  if (any(is_embedding_key)) return FileKind::embedding;
  if (all(is_of_weights)) return FileKind::weights;
  if (all(is_of_vae)) return FileKind::vae;
  return all_are_vectors && !names.empty() && names.size() <= kMostWords ? FileKind::embedding : FileKind::other;
}

FileKind kind_of_safetensors(const fs::path& file) {
  std::vector<std::string> names;
  bool all_are_vectors = true;
  for (const store::TensorInfo& tensor : store::read_safetensors_header(file)) {
    names.push_back(tensor.name);
    all_are_vectors = all_are_vectors && (tensor.shape.size() == 1 || tensor.shape.size() == 2);
  }
  return kind_of_names(names, all_are_vectors);
}

FileKind kind_of_value(const store::PyValue& value) {
  if (const auto* tensor = value.get_if<at::Tensor>())
    return tensor->dim() <= 2 ? FileKind::embedding : FileKind::other;
  const auto* dict = value.get_if<store::PyDict>();
  if (dict == nullptr) return FileKind::other;
  if (const store::PyValue* inner = dict->find("state_dict")) {
    const FileKind kind = kind_of_value(*inner);
    return kind == FileKind::embedding ? FileKind::other : kind;
  }
  std::vector<std::string> names;
  bool all_are_vectors = true;
  for (const auto& [key, item] : dict->items) {
    const bool is_network = item.get_if<store::PyTuple>() != nullptr || item.get_if<store::PyList>() != nullptr;
    if (key.get_if<std::int64_t>() != nullptr && is_network) return FileKind::hypernetwork;
    const auto* name = key.get_if<std::string>();
    const auto* tensor = item.get_if<at::Tensor>();
    if (name != nullptr && (tensor != nullptr || is_embedding_key(*name))) names.push_back(*name);
    all_are_vectors = all_are_vectors && (tensor == nullptr || tensor->dim() == 1 || tensor->dim() == 2);
  }
  return kind_of_names(names, all_are_vectors);
}

}  // namespace

FileKind kind_of(const fs::path& file) {
  if (!fs::is_regular_file(file)) fail_input(file.string(), ": expected a file, found none");
  if (file.extension() == ".safetensors") return kind_of_safetensors(file);
  if (fs::file_size(file) > kLargestAdapter) return FileKind::base;
  return kind_of_value(store::read_torch_file(file));
}

std::string name_of(FileKind kind) {
  switch (kind) {
    case FileKind::hypernetwork:
      return "a hypernetwork";
    case FileKind::embedding:
      return "a textual inversion embedding";
    case FileKind::lora:
      return "a LoRA";
    case FileKind::base:
      return "a whole model in one file";
    case FileKind::vae:
      return "a VAE alone";
    case FileKind::weights:
      return "weights that dreambooth trained";
    case FileKind::other:
      break;
  }
  return "no file of a kind that is known";
}

}  // namespace ldmtune::cli
