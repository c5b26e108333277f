#include "model/text_conditioning.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace ldmtune::model {
namespace {

at::Tensor join(const std::vector<at::Tensor>& parts, std::int64_t dim) {
  return parts.size() == 1 ? parts.front() : at::cat(parts, dim);
}

/// One encoder's share: columns [begin, begin + width) of input_ids.
struct Share {
  const CLIPTextEncoder& encoder;
  std::int64_t begin, width, chunk;
};

/// SD 1 and 2: (B, T, D), normalized.
at::Tensor encode_normalized(const Share& share, const at::Tensor& input_ids, const TextOptions& options) {
  std::vector<at::Tensor> chunks;
  for (std::int64_t column = share.begin; column < share.begin + share.width; column += share.chunk) {
    const at::Tensor ids = input_ids.narrow(1, column, share.chunk).contiguous();
    const at::Tensor hidden = share.encoder.forward(ids, options.hooks, options.clip_skip);
    chunks.push_back(options.on_chunk ? options.on_chunk(hidden, column) : hidden);
  }
  return join(chunks, 1);
}

/// SDXL: (B, T, D) as it leaves the layer and, from an encoder that projects, (B, P) of the first chunk.
TextConditioning encode_hidden(const Share& share, const at::Tensor& input_ids, const TextOptions& options) {
  std::vector<at::Tensor> chunks;
  TextConditioning result;
  for (std::int64_t column = share.begin; column < share.begin + share.width; column += share.chunk) {
    const at::Tensor ids = input_ids.narrow(1, column, share.chunk).contiguous();
    const bool pools = chunks.empty() && share.encoder.projection_dim() > 0;
    const auto part = share.encoder.hidden_state(ids, options.clip_skip + 1, pools, options.hooks);
    if (pools) result.pooled = part.pooled;
    chunks.push_back(options.on_chunk ? options.on_chunk(part.hidden, column) : part.hidden);
  }
  result.context = join(chunks, 1);
  return result;
}

}  // namespace

TextConditioning encode_text(const BaseModel& base, const at::Tensor& input_ids, const TextOptions& options) {
  const std::int64_t encoders = base.text_encoders(), chunk = base.model_max_length;
  if (encoders == 0) fail(base.folder.string(), ": loaded without its text encoders");
  if (input_ids.dim() != 2 || input_ids.size(1) == 0 || input_ids.size(1) % (encoders * chunk) != 0) {
    fail("expected input_ids of shape (B, a multiple of ", encoders * chunk, "), found ", input_ids.sizes());
  }
  const at::Tensor ids = input_ids.to(base.text_encoder->parameters().begin()->second.device());
  const std::int64_t width = ids.size(1) / encoders;
  if (options.hooks) options.hooks->begin_text_encoder(0);
  const Share first{*base.text_encoder, 0, width, chunk};
  if (encoders == 1) return {encode_normalized(first, ids, options), {}};
  const at::Tensor context = encode_hidden(first, ids, options).context;
  if (options.hooks) options.hooks->begin_text_encoder(1);
  const TextConditioning second = encode_hidden({*base.text_encoder_2, width, width, chunk}, ids, options);
  return {at::cat({context, second.context}, -1), second.pooled};
}

std::int64_t max_clip_skip(const BaseModel& base) {
  if (!base.text_encoder_2) return base.text_encoder->num_hidden_layers();
  return std::min(base.text_encoder->num_hidden_layers(), base.text_encoder_2->num_hidden_layers()) - 1;
}

}  // namespace ldmtune::model
