#pragma once
// config.json of each network of a single-file checkpoint, told from its tensors' shapes. What shapes do not say takes
// the families' own values: SD 1 (8 attention heads a level), SD 2 and SDXL (heads 64 wide), CLIP's heads of 64.

#include <nlohmann/json.hpp>
#include <string>

#include "store/tensor_map.h"

namespace ldmtune::model {

enum class LdmFamily { sd1, sd2, sdxl };
const char* family_name(LdmFamily family);

/// Tensors under diffusers' keys. Errors: InputError naming `source` and the tensor that is missing or misshapen.
nlohmann::json unet_config_of(const store::TensorMap& tensors, LdmFamily family, const std::string& source);
nlohmann::json vae_config_of(const store::TensorMap& tensors, LdmFamily family, const std::string& source);
/// `open_clip`: gelu and its ways of telling the end of the text, else CLIP's quick_gelu.
nlohmann::json text_config_of(const store::TensorMap& tensors, bool open_clip, const std::string& source);
/// The families' noise schedule. prediction_type: "epsilon" or "v_prediction".
nlohmann::json scheduler_config_of(LdmFamily family, const std::string& prediction_type);
/// model_index.json of a base made of such files.
nlohmann::json model_index_of(LdmFamily family);

}  // namespace ldmtune::model
