#pragma once
// Token ids -> what the UNet reads of a text, whatever text encoders the base has.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>

#include "model/base_model.h"
#include "model/hooks.h"

namespace ldmtune::model {

struct TextConditioning {
  at::Tensor context;  ///< (B, T, D)
  at::Tensor pooled;   ///< (B, P), SDXL only
};

struct TextOptions {
  ModelHooks* hooks = nullptr;  ///< told by begin_text_encoder which encoder runs
  std::int64_t clip_skip = 1;
  /// Changes one encoder's hidden state (B, L, D) of the chunk that begins at this column of input_ids.
  std::function<at::Tensor(const at::Tensor& hidden, std::int64_t column)> on_chunk;
};

/// input_ids i64 (B, base.text_encoders() * k * model_max_length): k chunks of the first tokenizer, then (SDXL) k
/// chunks of the second one. Each chunk is encoded alone; T is k * model_max_length. SD 1 and 2: the normalized state
/// of layer -clip_skip. SDXL: the states of layer -(clip_skip + 1) of both encoders, not normalized, side by side, and
/// the second encoder's pooled embedding of the first chunk. Gradients flow where grad mode is on. Errors: InputError
/// if there is no such layer.
TextConditioning encode_text(const BaseModel& base, const at::Tensor& input_ids, const TextOptions& options = {});

/// The highest clip_skip that the base's text encoders allow.
std::int64_t max_clip_skip(const BaseModel& base);

}  // namespace ldmtune::model
