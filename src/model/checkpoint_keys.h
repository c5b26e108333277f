#pragma once
// Older and newer names of checkpoint keys, turned into those that published files have and our modules ask for.

#include <string>

#include "store/tensor_map.h"

namespace ldmtune::model {

/// Text encoder: keys without the prefix "text_model." (transformers 5) get it; position_ids (a buffer that older
/// versions saved) go. `source` names the file for errors: InputError if two keys become one.
store::TensorMap normalize_text_encoder_keys(store::TensorMap tensors, const std::string& source);

/// VAE: the mid blocks' attention under its older names (query, key, value, proj_attn) becomes to_q, to_k, to_v,
/// to_out.0, and its weights, where they are 1x1 convolutions (N, N, 1, 1), linears (N, N).
store::TensorMap normalize_vae_keys(store::TensorMap tensors, const std::string& source);

}  // namespace ldmtune::model
