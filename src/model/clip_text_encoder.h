#pragma once
// CLIPTextModel and CLIPTextModelWithProjection as transformers has them, configured by their config.json.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "model/hooks.h"
#include "model/weights.h"

namespace ldmtune::model {

class CLIPTextEncoder {
 public:
  CLIPTextEncoder(const nlohmann::json& config, Weights& weights);
  ~CLIPTextEncoder();
  CLIPTextEncoder(CLIPTextEncoder&&) noexcept;

  /// input_ids i64 (B, L), L at most max_position_embeddings(). Returns the hidden state of layer -clip_skip (1: the
  /// last) after final_layer_norm (B, L, D); AUTOMATIC1111 and kohya count clip_skip so, diffusers from 0. Layers after
  /// it are not evaluated. Errors: InputError if there is no such layer.
  at::Tensor forward(const at::Tensor& input_ids, ModelHooks* hooks = nullptr, std::int64_t clip_skip = 1) const;

  struct Hidden {
    at::Tensor hidden;  ///< (B, L, D): output of layer -clip_skip, not normalized
    at::Tensor pooled;  ///< (B, projection_dim()): the last layer's at the end of the text, normalized and projected
  };
  /// What SDXL reads; pooled only where asked for. The text ends at the first eos token; where the configuration gives
  /// 2 as eos_token_id (wrongly, as SDXL's do), at the highest id of the vocabulary. Errors: as forward.
  Hidden hidden_state(const at::Tensor& input_ids, std::int64_t clip_skip, bool pools,
                      ModelHooks* hooks = nullptr) const;

  std::int64_t hidden_size() const;
  std::int64_t num_hidden_layers() const;
  std::int64_t projection_dim() const;  ///< 0 without a projection (CLIPTextModel)
  std::int64_t max_position_embeddings() const;
  std::int64_t vocab_size() const;
  /// Under the published keys ("text_model.embeddings.token_embedding.weight" ...).
  const store::TensorMap& parameters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
