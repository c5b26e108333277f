#pragma once
// Multi-head attention and the gated feed-forward of the UNet's transformers; the VAE's mid-block uses the attention
// too.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "model/hooks.h"
#include "model/layers.h"

namespace ldmtune::model {

struct AttentionOptions {
  std::int64_t query_width = 0;
  std::int64_t context_width = 0;  ///< of what to_k and to_v read
  std::int64_t heads = 1, head_width = 0;
  Linear::Bias bias = Linear::Bias::no;  ///< of to_q, to_k, to_v
  bool upcast = false;                   ///< q, k, v in fp32 (SD 2.1 overflows fp16 otherwise)
};

class Attention {
 public:
  Attention(Weights& weights, AttentionSite site, const AttentionOptions& options);

  /// hidden (B, N, query_width), context (B, T, context_width); `hooks` may replace what to_k and to_v read.
  /// Returns (B, N, query_width), the residual not added.
  at::Tensor forward(const at::Tensor& hidden, const at::Tensor& context, ModelHooks* hooks) const;
  /// The same with what to_k and to_v read, already replaced.
  at::Tensor forward(const at::Tensor& hidden, KeyValueContext read, ModelHooks* hooks) const;
  /// What to_k and to_v read of a context.
  KeyValueContext read(const at::Tensor& context, ModelHooks* hooks) const;

 private:
  at::Tensor split_heads(const at::Tensor& projected) const;

  AttentionSite site_;
  Linear to_q_, to_k_, to_v_, to_out_;
  std::int64_t heads_;
  bool upcast_;
};

/// Softmax attention of (B, heads, N, d) on (B, heads, T, d); returns (B, N, heads * d).
at::Tensor scaled_dot_product(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal);

/// GEGLU: half of the first projection gates the other half.
class FeedForward {
 public:
  FeedForward(Weights& weights, const std::string& name, std::int64_t width);
  at::Tensor forward(const at::Tensor& hidden, ModelHooks* hooks) const;

 private:
  Linear proj_in_, proj_out_;
};

}  // namespace ldmtune::model
