#pragma once
// Keys of the original LDM layout (single-file checkpoints) <-> keys of the diffusers layout, network by network. Both
// directions are exact: the same values, renamed; only 1x1 convolutions that diffusers keeps as matrices, OpenCLIP's
// joint in_proj and its transposed projection change shape. LDM keys stand here without their network's prefix
// ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.model." ...).
//
// `source` names the file for errors: InputError naming a key that has no place in the layout.

#include <string>
#include <string_view>
#include <utility>

#include "store/tensor_map.h"

namespace ldmtune::model {

store::TensorMap unet_from_ldm(store::TensorMap tensors, const std::string& source);
/// Errors also where down blocks have different numbers of resnets, which the LDM layout cannot say.
store::TensorMap unet_to_ldm(store::TensorMap tensors, const std::string& source);

store::TensorMap vae_from_ldm(store::TensorMap tensors, const std::string& source);
store::TensorMap vae_to_ldm(store::TensorMap tensors, const std::string& source);

/// OpenCLIP (SD 2, SDXL's second encoder). From: logit_scale and attn_mask, which no text needs, are left out.
store::TensorMap text_from_open_clip(store::TensorMap tensors, const std::string& source);
store::TensorMap text_to_open_clip(store::TensorMap tensors, const std::string& source);

/// A module's name in the diffusers layout and in LDM's.
struct LdmName {
  std::string_view diffusers, ldm;
};
enum class LdmDirection { from_ldm, to_ldm };

/// `key` with its leading module renamed by the first entry of `names` that is it or is followed by a dot; empty if
/// none is.
template <class Names>
std::string rename_module(std::string_view key, const Names& names, LdmDirection direction) {
  for (const LdmName& name : names) {
    const auto [old, renamed] =
        direction == LdmDirection::from_ldm ? std::pair(name.ldm, name.diffusers) : std::pair(name.diffusers, name.ldm);
    if (!key.starts_with(old) || (key.size() > old.size() && key[old.size()] != '.')) continue;
    return std::string(renamed) + std::string(key.substr(old.size()));
  }
  return "";
}

/// Reads "<prefix><number>." at the start of `key`: the number, with `rest` what follows; -1 if it is not there.
std::int64_t numbered_module(std::string_view key, std::string_view prefix, std::string_view& rest);

}  // namespace ldmtune::model
