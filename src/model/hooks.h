#pragma once
// Where adapters enter the model. The model calls these; `adapt` implements them. Every default changes nothing.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

namespace ldmtune::model {

/// One attention layer of the UNet.
struct AttentionSite {
  std::string name;              ///< checkpoint prefix, e.g. "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
  std::int64_t layer_index = 0;  ///< 0, 1, 2 ... in the order of evaluation, self and cross counted together
  bool is_cross = false;         ///< context is the text's, the same tensor for every layer of one forward
};

/// What to_k and to_v read.
struct KeyValueContext {
  at::Tensor key;    ///< (B, T, width)
  at::Tensor value;  ///< (B, T, width)
};

class ModelHooks {
 public:
  virtual ~ModelHooks() = default;

  /// Whether nothing changes through these hooks, so that the model may leave them out.
  virtual bool is_identity() const { return false; }

  /// A UNet forward starts: results kept from the last one (the text context's k and v by width) are dropped.
  virtual void begin_forward() {}

  /// Replaces what to_k and to_v of `site` read; `context` is (B, T, width). q is untouched.
  virtual KeyValueContext attention_context(const at::Tensor& context, const AttentionSite& /*site*/) {
    return {context, context};
  }

  /// Adds to the output (..., out) of the linear or 1x1 convolution whose checkpoint key is `name` + ".weight".
  virtual at::Tensor linear(const at::Tensor& /*input*/, const at::Tensor& output, const std::string& /*name*/) {
    return output;
  }

  /// A text encoder's forward starts: `index` 0 for the first (or only) one, 1 for SDXL's second. What follows until
  /// the next one, embeddings and linears, is this encoder's.
  virtual void begin_text_encoder(std::int64_t /*index*/) {}

  /// Replaces token embeddings (B, L, D) of input_ids (B, L) before positions are added. Ids behind the vocabulary (new
  /// words) come with an embedding that means nothing.
  virtual at::Tensor token_embedding(const at::Tensor& /*input_ids*/, const at::Tensor& embedded) { return embedded; }
};

}  // namespace ldmtune::model
