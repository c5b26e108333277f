#include "model/text_conditioning.h"

#include <vector>

#include "core/error.h"

namespace ldmtune::model {
namespace {

at::Tensor encode_chunks(const CLIPTextEncoder& encoder, const at::Tensor& input_ids, std::int64_t length,
                         ModelHooks* hooks, std::int64_t clip_skip) {
  std::vector<at::Tensor> chunks;
  for (const at::Tensor& chunk : input_ids.split(length, /*dim=*/1)) {
    chunks.push_back(encoder.forward(chunk.contiguous(), hooks, clip_skip));
  }
  return chunks.size() == 1 ? chunks.front() : at::cat(chunks, /*dim=*/1);
}

/// One of SDXL's encoders: (B, T, D) and, where it projects, (B, P).
CLIPTextEncoder::Hidden encode_hidden(const CLIPTextEncoder& encoder, const at::Tensor& input_ids, std::int64_t length,
                                      ModelHooks* hooks, std::int64_t clip_skip) {
  std::vector<at::Tensor> chunks;
  CLIPTextEncoder::Hidden result;
  for (const at::Tensor& chunk : input_ids.split(length, /*dim=*/1)) {
    const bool pools = chunks.empty() && encoder.projection_dim() > 0;
    CLIPTextEncoder::Hidden part = encoder.hidden_state(chunk.contiguous(), clip_skip + 1, pools, hooks);
    if (pools) result.pooled = part.pooled;
    chunks.push_back(part.hidden);
  }
  result.hidden = chunks.size() == 1 ? chunks.front() : at::cat(chunks, /*dim=*/1);
  return result;
}

}  // namespace

TextConditioning encode_text(const BaseModel& base, const at::Tensor& input_ids, ModelHooks* hooks,
                             std::int64_t clip_skip) {
  const std::int64_t encoders = base.text_encoders();
  if (encoders == 0) fail(base.folder.string(), ": loaded without its text encoders");
  if (input_ids.dim() != 2 || input_ids.size(1) % (encoders * base.model_max_length) != 0) {
    fail("expected input_ids of shape (B, a multiple of ", encoders * base.model_max_length, "), found ",
         input_ids.sizes());
  }
  const at::Tensor ids = input_ids.to(base.text_encoder->parameters().begin()->second.device());
  if (hooks) hooks->begin_text_encoder(0);
  if (encoders == 1) {
    return {encode_chunks(*base.text_encoder, ids, base.model_max_length, hooks, clip_skip), {}};
  }
  const auto halves = ids.chunk(2, /*dim=*/1);
  const auto first = encode_hidden(*base.text_encoder, halves[0], base.model_max_length, hooks, clip_skip);
  if (hooks) hooks->begin_text_encoder(1);
  const auto second = encode_hidden(*base.text_encoder_2, halves[1], base.model_max_length, hooks, clip_skip);
  return {at::cat({first.hidden, second.hidden}, -1), second.pooled};
}

}  // namespace ldmtune::model
