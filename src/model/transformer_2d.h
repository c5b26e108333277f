#pragma once
// Transformer2DModel: an image's positions as tokens that attend to each other and to the text.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/attention.h"
#include "model/layers.h"
#include "model/unet_2d_condition.h"

namespace ldmtune::model {

using AttentionLayers = std::vector<UNet2DConditionModel::AttentionLayer>;

struct TransformerOptions {
  std::int64_t channels = 0;
  std::int64_t heads = 1;
  std::int64_t layers = 1;
  std::int64_t groups = 32;
  std::int64_t cross_attention_dim = 0;
  bool linear_projection = false;     ///< proj_in and proj_out are stored as matrices, not 1x1 convolutions
  bool only_cross_attention = false;  ///< attn1 too reads the text
  bool upcast_attention = false;
};

/// What to_k and to_v of a layer read of the text's context (B, T, cross_attention_dim).
using TextReader = std::function<KeyValueContext(const Attention& layer)>;

class BasicTransformerBlock {
 public:
  /// Appends its attention layers to `registry`, which numbers them.
  BasicTransformerBlock(Weights& weights, const std::string& name, const TransformerOptions& options,
                        AttentionLayers& registry);
  /// hidden (B, N, width) -> (B, N, width); `text` gives what a layer reads that reads the text.
  at::Tensor forward(at::Tensor hidden, const TextReader& text, ModelHooks* hooks) const;
  /// The layers that read the text, in order.
  std::vector<const Attention*> text_layers() const;

 private:
  LayerNorm norm1_;
  Attention attn1_;
  LayerNorm norm2_;
  Attention attn2_;
  LayerNorm norm3_;
  FeedForward ff_;
  bool only_cross_attention_;
};

class Transformer2DModel {
 public:
  Transformer2DModel(Weights& weights, const std::string& name, const TransformerOptions& options,
                     AttentionLayers& registry);
  /// input (B, channels, h, w), context (B, T, cross_attention_dim) -> (B, channels, h, w), contiguous.
  at::Tensor forward(const at::Tensor& input, const at::Tensor& context, ModelHooks* hooks) const;
  /// The same, keeping no activations for backward (model/recompute.h). `hooks` must live until then. What the layers
  /// read of the text is asked of them once, before the block, and goes in as inputs, so that what several layers share
  /// is computed once and gets its gradients as without recomputing.
  at::Tensor forward_recomputed(const at::Tensor& input, const at::Tensor& context, ModelHooks* hooks) const;

 private:
  at::Tensor forward(const at::Tensor& residual, const at::Tensor& input, const TextReader& text,
                     ModelHooks* hooks) const;

  GroupNorm norm_;
  Linear proj_in_;
  std::vector<BasicTransformerBlock> blocks_;
  Linear proj_out_;
};

}  // namespace ldmtune::model
