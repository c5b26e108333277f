#include "model/attention.h"

#include "model/frugal_layers.h"

namespace ldmtune::model {

namespace {
constexpr std::int64_t kFeedForwardFactor = 4;
}

at::Tensor scaled_dot_product(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  // The kernel lays its output out as (B, N, heads, d), so that joining the heads copies nothing.
  return at::scaled_dot_product_attention(query, key, value, /*attn_mask=*/{}, /*dropout_p=*/0.0, causal)
      .transpose(1, 2)
      .flatten(2);
}

Attention::Attention(Weights& weights, AttentionSite site, const AttentionOptions& options)
    : site_(std::move(site)),
      to_q_(weights, site_.name + ".to_q", options.query_width, options.heads * options.head_width, options.bias),
      to_k_(weights, site_.name + ".to_k", options.context_width, options.heads * options.head_width, options.bias),
      to_v_(weights, site_.name + ".to_v", options.context_width, options.heads * options.head_width, options.bias),
      to_out_(weights, site_.name + ".to_out.0", options.heads * options.head_width, options.query_width),
      heads_(options.heads),
      upcast_(options.upcast) {}

at::Tensor Attention::split_heads(const at::Tensor& projected) const {
  const at::Tensor split = projected.unflatten(2, {heads_, projected.size(2) / heads_}).transpose(1, 2);
  return upcast_ ? split.to(at::kFloat) : split;
}

KeyValueContext Attention::read(const at::Tensor& context, ModelHooks* hooks) const {
  return hooks ? hooks->attention_context(context, site_) : KeyValueContext{context, context};
}

at::Tensor Attention::forward(const at::Tensor& hidden, const at::Tensor& context, ModelHooks* hooks) const {
  return forward(hidden, read(context, hooks), hooks);
}

at::Tensor Attention::forward(const at::Tensor& hidden, KeyValueContext read, ModelHooks* hooks) const {
  if (hooks) {
    read.key = read.key.to(hidden.scalar_type());
    read.value = read.value.to(hidden.scalar_type());
  }
  const at::Tensor query = split_heads(to_q_.forward(hidden, hooks));
  const at::Tensor key = split_heads(to_k_.forward(read.key, hooks));
  const at::Tensor value = split_heads(to_v_.forward(read.value, hooks));
  const at::Tensor attended = scaled_dot_product(query, key, value, /*causal=*/false);
  return to_out_.forward(attended.to(hidden.scalar_type()), hooks);
}

FeedForward::FeedForward(Weights& weights, const std::string& name, std::int64_t width)
    : proj_in_(weights, name + ".net.0.proj", width, 2 * kFeedForwardFactor * width),
      proj_out_(weights, name + ".net.2", kFeedForwardFactor * width, width) {}

at::Tensor FeedForward::forward(const at::Tensor& hidden, ModelHooks* hooks) const {
  return proj_out_.forward(gated_gelu(proj_in_.forward(hidden, hooks)), hooks);
}

}  // namespace ldmtune::model
