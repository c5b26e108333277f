#pragma once
// The networks walked with counted tensors (model/memory_tape.h), layer by layer as their modules run.

#include <cstdint>
#include <string>
#include <utility>

#include "model/memory_tape.h"
#include "model/network_cost.h"
#include "model/unet_config.h"
#include "model/vae_blocks.h"

namespace ldmtune::model {

/// ModelHooks for counted tensors.
class CountedHooks {
 public:
  virtual ~CountedHooks() = default;
  virtual void begin_forward() {}
  /// What to_k and to_v read of a context `width` wide.
  virtual std::pair<Counted, Counted> attention_context(MemoryTape& /*tape*/, const Counted& context,
                                                        std::int64_t /*width*/, bool /*is_cross*/) {
    return {context, context};
  }
  virtual Counted linear(MemoryTape& /*tape*/, const Counted& /*input*/, const Counted& output,
                         const std::string& /*name*/) {
    return output;
  }
  /// A text encoder's embeddings.
  virtual Counted token_embedding(MemoryTape& /*tape*/, const Counted& embedded) { return embedded; }
};

/// How a network takes part in a pass.
struct Pass {
  double batch = 1;
  double element_size = 4;  ///< bytes of a number
  bool trains = false;      ///< all its weights
  bool trains_attention = false;
  bool gradient_checkpointing = false;
  CountedHooks* hooks = nullptr;
};

/// UNet2DConditionModel::forward; `text` (batch, text_tokens, cross_attention_dim). Returns the prediction. `config`,
/// `pass` and its hooks must live until the tape's backward is done.
Counted walk_unet(MemoryTape& tape, const UNetConfig& config, const Pass& pass, std::int64_t height, std::int64_t width,
                  const Counted& text, std::int64_t text_tokens);

/// One of the text encoders on `batch` chunks of `length` tokens. Returns the hidden state.
Counted walk_text_encoder(MemoryTape& tape, const TextEncoderShape& shape, const Pass& pass, std::int64_t length);

/// AutoencoderKL::decode of latents of this height and width, without gradients.
void walk_decoder(MemoryTape& tape, const VAEConfig& config, const Pass& pass, std::int64_t height, std::int64_t width);

}  // namespace ldmtune::model
