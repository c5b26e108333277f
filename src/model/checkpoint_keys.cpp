#include "model/checkpoint_keys.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace ldmtune::model {
namespace {

constexpr std::string_view kTextPrefix = "text_model.";
constexpr std::array<std::string_view, 3> kTextModules{"embeddings.", "encoder.", "final_layer_norm."};
constexpr std::string_view kMidAttention = ".mid_block.attentions.";
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kOlderAttentionNames{
    {{"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}}};

void put(store::TensorMap& tensors, const std::string& key, at::Tensor tensor, const std::string& old_key,
         const std::string& source) {
  if (tensors.emplace(key, std::move(tensor)).second) return;
  fail_input(source, ": tensor \"", key, "\" is there twice, by its name and by another (\"", old_key,
             "\"); expected one of them. Convert the file again.");
}

/// "encoder.mid_block.attentions.0.query.weight" -> "...0.to_q.weight".
std::string newer_attention_key(const std::string& key) {
  const auto last = key.rfind('.');
  const auto before = last == std::string::npos || last == 0 ? std::string::npos : key.rfind('.', last - 1);
  if (before == std::string::npos) return key;
  const std::string_view module = std::string_view(key).substr(before + 1, last - before - 1);
  for (const auto& [older, newer] : kOlderAttentionNames) {
    if (module == older) return key.substr(0, before + 1) + std::string(newer) + key.substr(last);
  }
  return key;
}

}  // namespace

store::TensorMap normalize_text_encoder_keys(store::TensorMap tensors, const std::string& source) {
  store::TensorMap normalized;
  for (auto& [old_key, tensor] : tensors) {
    std::string key = old_key;
    for (const std::string_view module : kTextModules) {
      if (old_key.starts_with(module)) key = std::string(kTextPrefix) + old_key;
    }
    if (key == "text_model.embeddings.position_ids") continue;
    put(normalized, key, std::move(tensor), old_key, source);
  }
  return normalized;
}

store::TensorMap normalize_vae_keys(store::TensorMap tensors, const std::string& source) {
  store::TensorMap normalized;
  for (auto& [old_key, tensor] : tensors) {
    const bool is_attention = old_key.find(kMidAttention) != std::string::npos;
    const bool is_pointwise = is_attention && tensor.dim() == 4 && tensor.size(2) == 1 && tensor.size(3) == 1;
    put(normalized, is_attention ? newer_attention_key(old_key) : old_key,
        is_pointwise ? tensor.squeeze(3).squeeze(2) : std::move(tensor), old_key, source);
  }
  return normalized;
}

}  // namespace ldmtune::model
