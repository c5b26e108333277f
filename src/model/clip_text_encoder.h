#pragma once
// CLIPTextModel as transformers has it, configured by its config.json.

#include <ATen/ATen.h>

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

  /// input_ids i64 (B, L), L at most max_position_embeddings(). Returns the last hidden state after final_layer_norm
  /// (B, L, D).
  at::Tensor forward(const at::Tensor& input_ids, ModelHooks* hooks = nullptr) const;

  std::int64_t hidden_size() const;
  std::int64_t max_position_embeddings() const;
  std::int64_t vocab_size() const;
  /// Under the published keys ("text_model.embeddings.token_embedding.weight" ...).
  const store::TensorMap& parameters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
