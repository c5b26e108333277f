#include <array>

#include "core/error.h"
#include "model/ldm_keys.h"

namespace ldmtune::model {
namespace {

constexpr std::array<LdmName, 3> kModules{{{"text_model.embeddings.position_embedding.weight", "positional_embedding"},
                                           {"text_model.embeddings.token_embedding", "token_embedding"},
                                           {"text_model.final_layer_norm", "ln_final"}}};
constexpr std::array<LdmName, 5> kLayer{{{"layer_norm1", "ln_1"},
                                         {"layer_norm2", "ln_2"},
                                         {"mlp.fc1", "mlp.c_fc"},
                                         {"mlp.fc2", "mlp.c_proj"},
                                         {"self_attn.out_proj", "attn.out_proj"}}};
constexpr std::array<const char*, 3> kProjections{"q_proj", "k_proj", "v_proj"};
constexpr std::string_view kLayers = "text_model.encoder.layers.", kBlocks = "transformer.resblocks.";
constexpr char kProjection[] = "text_projection.weight", kLdmProjection[] = "text_projection";

/// attn.in_proj_weight (3 D, D) or in_proj_bias (3 D) as q, k and v.
void split_in_proj(const std::string& head, std::string_view kind, const at::Tensor& joint, const std::string& source,
                   store::TensorMap& out) {
  if (joint.dim() == 0 || joint.size(0) % 3 != 0) {
    fail_input(source, ": in_proj_", kind, " of ", head, " has shape ", joint.sizes(), "; expected three projections");
  }
  const auto parts = joint.chunk(3, 0);
  for (std::size_t i = 0; i < 3; ++i) {
    out.emplace(cat(head, "self_attn.", kProjections[i], ".", kind), parts[i].contiguous());
  }
}

/// The joint projection that `key` (of q_proj) belongs to.
at::Tensor join_in_proj(const store::TensorMap& tensors, const std::string& key, const std::string& source) {
  std::vector<at::Tensor> parts;
  const auto at = key.find("q_proj");
  for (const char* projection : kProjections) {
    const std::string name = key.substr(0, at) + projection + key.substr(at + 6);
    const auto found = tensors.find(name);
    if (found == tensors.end()) fail_input(source, ": the text encoder's tensor \"", name, "\" is missing");
    parts.push_back(found->second);
  }
  return at::cat(parts, 0);
}

}  // namespace

store::TensorMap text_from_open_clip(store::TensorMap tensors, const std::string& source) {
  store::TensorMap renamed;
  for (auto& [key, tensor] : tensors) {
    if (key == "logit_scale" || key == "attn_mask") continue;
    if (key == kLdmProjection) {
      renamed.emplace(kProjection, tensor.t().contiguous());
      continue;
    }
    std::string_view rest;
    const std::int64_t layer = numbered_module(key, kBlocks, rest);
    const std::string head = cat(kLayers, layer, ".");
    if (layer >= 0 && (rest == "attn.in_proj_weight" || rest == "attn.in_proj_bias")) {
      split_in_proj(head, rest.substr(13), tensor, source, renamed);
      continue;
    }
    const std::string inner = layer < 0 ? rename_module(key, kModules, LdmDirection::from_ldm)
                                        : rename_module(rest, kLayer, LdmDirection::from_ldm);
    if (inner.empty()) fail_input(source, ": tensor \"", key, "\" has no place in an OpenCLIP text encoder");
    renamed.emplace(layer < 0 ? inner : head + inner, std::move(tensor));
  }
  return renamed;
}

store::TensorMap text_to_open_clip(store::TensorMap tensors, const std::string& source) {
  store::TensorMap renamed;
  for (const auto& [key, tensor] : tensors) {
    if (key == kProjection) {
      renamed.emplace(kLdmProjection, tensor.t().contiguous());
      continue;
    }
    std::string_view rest;
    const std::int64_t layer = numbered_module(key, kLayers, rest);
    const std::string head = cat(kBlocks, layer, ".");
    if (layer >= 0 && rest.starts_with("self_attn.q_proj.")) {
      renamed.emplace(head + "attn.in_proj_" + std::string(rest.substr(17)), join_in_proj(tensors, key, source));
      continue;
    }
    if (layer >= 0 && (rest.starts_with("self_attn.k_proj.") || rest.starts_with("self_attn.v_proj."))) continue;
    const std::string inner = layer < 0 ? rename_module(key, kModules, LdmDirection::to_ldm)
                                        : rename_module(rest, kLayer, LdmDirection::to_ldm);
    if (inner.empty()) fail_input(source, ": the text encoder's tensor \"", key, "\" has no name in OpenCLIP's layout");
    renamed.emplace(layer < 0 ? inner : head + inner, tensor);
  }
  return renamed;
}

}  // namespace ldmtune::model
