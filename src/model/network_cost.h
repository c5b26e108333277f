#pragma once
// Floating-point operations of the networks, counted from their configurations: a multiplication and an addition are
// two. Counted: convolutions, matrices, attention; not counted: norms, activations, embeddings.

#include <cstdint>
#include <map>
#include <string>

#include "model/unet_config.h"

namespace ldmtune::model {

/// One forward of the UNet for one sample.
struct UNetCost {
  double parameters = 0;
  double flops = 0;            ///< all operations
  double attention_flops = 0;  ///< those between queries, keys and values, whose gradient costs twice as much
  /// Those that come before the first attention or read the time alone: no gradient passes them where only the
  /// attention's neighbourhood trains.
  double flops_before_attention = 0;
  double attention_matrix_flops = 0;  ///< to_q, to_k, to_v and to_out of all attention layers
  double text_matrix_flops = 0;       ///< to_k and to_v of those that read the text
  double saved_elements = 0;          ///< what a backward pass keeps, in numbers
  /// Tokens that to_k and to_v read, by their width: summed over layers, but those of the text once.
  std::map<std::int64_t, double> read_tokens;
};
UNetCost unet_cost(const UNetConfig& config, std::int64_t height, std::int64_t width, std::int64_t text_tokens);

/// Tokens that a linear layer of the UNet's transformers reads, by its checkpoint name
/// ("up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"): the latent's positions at its level, or the text's.
double tokens_read_by(const std::string& layer, const UNetConfig& config, std::int64_t height, std::int64_t width,
                      std::int64_t text_tokens);

/// What one of the text encoders is made of.
struct TextEncoderShape {
  std::int64_t layers = 0;  ///< those that are evaluated
  std::int64_t width = 0, intermediate = 0;
};

/// One forward of a text encoder for one prompt of `chunks` chunks of `length` tokens.
struct TextEncoderCost {
  double flops = 0, attention_flops = 0;
};
TextEncoderCost text_encoder_cost(const TextEncoderShape& shape, std::int64_t length, std::int64_t chunks);

}  // namespace ldmtune::model
