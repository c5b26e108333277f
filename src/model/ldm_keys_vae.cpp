#include <algorithm>
#include <array>

#include "core/error.h"
#include "model/ldm_keys.h"

namespace ldmtune::model {
namespace {

constexpr std::array<LdmName, 3> kModules{
    {{"conv_in", "conv_in"}, {"conv_out", "conv_out"}, {"conv_norm_out", "norm_out"}}};
constexpr std::array<LdmName, 5> kResnet{{{"norm1", "norm1"},
                                          {"conv1", "conv1"},
                                          {"norm2", "norm2"},
                                          {"conv2", "conv2"},
                                          {"conv_shortcut", "nin_shortcut"}}};
constexpr std::array<LdmName, 5> kAttention{
    {{"group_norm", "norm"}, {"to_q", "q"}, {"to_k", "k"}, {"to_v", "v"}, {"to_out.0", "proj_out"}}};
constexpr std::string_view kLdmAttention = "mid.attn_1.", kAttentionHead = "mid_block.attentions.0.";

/// A pair of places that hold resnets: "down_blocks.1.resnets.0." and "down.1.block.0.".
struct Place {
  std::string diffusers, ldm;
};

std::vector<Place> mid_places() {
  return {{"mid_block.resnets.0.", "mid.block_1."}, {"mid_block.resnets.1.", "mid.block_2."}};
}

/// Renames within the encoder or the decoder; `levels` turns the decoder's numbers, which LDM counts from the finest.
std::string rename_half(std::string_view key, bool is_decoder, std::int64_t levels, LdmDirection direction) {
  const bool reads_ldm = direction == LdmDirection::from_ldm;
  for (const Place& place : mid_places()) {
    const std::string& old = reads_ldm ? place.ldm : place.diffusers;
    if (!key.starts_with(old)) continue;
    const std::string inner = rename_module(key.substr(old.size()), kResnet, direction);
    return inner.empty() ? "" : (reads_ldm ? place.diffusers : place.ldm) + inner;
  }
  const std::string_view attention = reads_ldm ? kLdmAttention : kAttentionHead;
  if (key.starts_with(attention)) {
    const std::string inner = rename_module(key.substr(attention.size()), kAttention, direction);
    return inner.empty() ? "" : std::string(reads_ldm ? kAttentionHead : kLdmAttention) + inner;
  }
  const std::string ours = is_decoder ? "up_blocks." : "down_blocks.", theirs = is_decoder ? "up." : "down.";
  std::string_view rest, inner;
  const std::int64_t number = numbered_module(key, reads_ldm ? theirs : ours, rest);
  if (number < 0 || number >= levels) return number < 0 ? rename_module(key, kModules, direction) : "";
  const std::string head = cat(reads_ldm ? ours : theirs, is_decoder ? levels - 1 - number : number, ".");
  const LdmName sampler =
      is_decoder ? LdmName{"upsamplers.0.conv", "upsample.conv"} : LdmName{"downsamplers.0.conv", "downsample.conv"};
  const std::string resized = rename_module(rest, std::array{sampler}, direction);
  if (!resized.empty()) return head + resized;
  const std::int64_t resnet = numbered_module(rest, reads_ldm ? "block." : "resnets.", inner);
  if (resnet < 0) return "";
  const std::string last = rename_module(inner, kResnet, direction);
  return last.empty() ? "" : cat(head, reads_ldm ? "resnets." : "block.", resnet, ".", last);
}

std::int64_t levels_of(const store::TensorMap& tensors, std::string_view prefix) {
  std::int64_t levels = 0;
  for (const auto& [key, tensor] : tensors) {
    std::string_view rest;
    levels = std::max(levels, numbered_module(key, prefix, rest) + 1);
  }
  return levels;
}

std::string rename_vae_key(const std::string& key, std::int64_t levels, LdmDirection direction) {
  if (key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.")) return key;
  for (const std::string half : {"encoder.", "decoder."}) {
    if (!key.starts_with(half)) continue;
    const std::string renamed =
        rename_half(std::string_view(key).substr(half.size()), half == "decoder.", levels, direction);
    return renamed.empty() ? "" : half + renamed;
  }
  return "";
}

bool is_attention_weight(const std::string& diffusers_key) {
  return diffusers_key.find(kAttentionHead) != std::string::npos && diffusers_key.ends_with(".weight") &&
         diffusers_key.find("group_norm") == std::string::npos;
}

}  // namespace

store::TensorMap vae_from_ldm(store::TensorMap tensors, const std::string& source) {
  const std::int64_t levels = levels_of(tensors, "encoder.down.");
  store::TensorMap renamed;
  for (auto& [key, tensor] : tensors) {
    const std::string name = rename_vae_key(key, levels, LdmDirection::from_ldm);
    if (name.empty()) fail_input(source, ": tensor \"first_stage_model.", key, "\" has no place in an AutoencoderKL");
    const bool is_pointwise = is_attention_weight(name) && tensor.dim() > 2;
    renamed.emplace(name, is_pointwise ? tensor.flatten(1) : std::move(tensor));
  }
  return renamed;
}

store::TensorMap vae_to_ldm(store::TensorMap tensors, const std::string& source) {
  const std::int64_t levels = levels_of(tensors, "encoder.down_blocks.");
  store::TensorMap renamed;
  for (auto& [key, tensor] : tensors) {
    const std::string name = rename_vae_key(key, levels, LdmDirection::to_ldm);
    if (name.empty()) fail_input(source, ": the VAE's tensor \"", key, "\" has no name in the LDM layout");
    const bool is_matrix = is_attention_weight(key) && tensor.dim() == 2;
    renamed.emplace(name, is_matrix ? tensor.unsqueeze(2).unsqueeze(3) : std::move(tensor));
  }
  return renamed;
}

}  // namespace ldmtune::model
