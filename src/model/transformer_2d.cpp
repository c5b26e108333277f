#include "model/transformer_2d.h"

#include <algorithm>

#include "model/recompute.h"

namespace ldmtune::model {

namespace {

constexpr double kLayerNormEps = 1e-5;  // diffusers leaves both at these, whatever norm_eps says
constexpr double kGroupNormEps = 1e-6;

// Heads times their width: below the channels where these are not divisible by the heads.
std::int64_t inner_width(const TransformerOptions& options) { return options.channels / options.heads * options.heads; }

AttentionOptions attention_options(const TransformerOptions& options, bool is_cross) {
  const std::int64_t width = inner_width(options);
  return {.query_width = width,
          .context_width = is_cross ? options.cross_attention_dim : width,
          .heads = options.heads,
          .head_width = options.channels / options.heads,
          .bias = Linear::Bias::no,
          .upcast = options.upcast_attention};
}

AttentionSite register_site(AttentionLayers& registry, const std::string& name, const TransformerOptions& options,
                            bool is_cross) {
  AttentionSite site{name, static_cast<std::int64_t>(registry.size()), is_cross};
  registry.push_back({site, attention_options(options, is_cross).context_width});
  return site;
}

Linear::Stored projection_storage(const TransformerOptions& options) {
  return options.linear_projection ? Linear::Stored::matrix : Linear::Stored::pointwise_conv;
}

}  // namespace

BasicTransformerBlock::BasicTransformerBlock(Weights& weights, const std::string& name,
                                             const TransformerOptions& options, AttentionLayers& registry)
    : norm1_(weights, name + ".norm1", inner_width(options), kLayerNormEps),
      attn1_(weights, register_site(registry, name + ".attn1", options, options.only_cross_attention),
             attention_options(options, options.only_cross_attention)),
      norm2_(weights, name + ".norm2", inner_width(options), kLayerNormEps),
      attn2_(weights, register_site(registry, name + ".attn2", options, true), attention_options(options, true)),
      norm3_(weights, name + ".norm3", inner_width(options), kLayerNormEps),
      ff_(weights, name + ".ff", inner_width(options)),
      only_cross_attention_(options.only_cross_attention) {}

at::Tensor BasicTransformerBlock::forward(at::Tensor hidden, const TextReader& text, ModelHooks* hooks) const {
  {
    const at::Tensor normalized = norm1_.forward(hidden);
    const KeyValueContext read = only_cross_attention_ ? text(attn1_) : attn1_.read(normalized, hooks);
    hidden = attn1_.forward(normalized, read, hooks) + hidden;
  }
  {
    const at::Tensor normalized = norm2_.forward(hidden);
    hidden = attn2_.forward(normalized, text(attn2_), hooks) + hidden;
  }
  return ff_.forward(norm3_.forward(hidden), hooks) + hidden;
}

std::vector<const Attention*> BasicTransformerBlock::text_layers() const {
  if (only_cross_attention_) return {&attn1_, &attn2_};
  return {&attn2_};
}

Transformer2DModel::Transformer2DModel(Weights& weights, const std::string& name, const TransformerOptions& options,
                                       AttentionLayers& registry)
    : norm_(weights, name + ".norm", options.groups, options.channels, kGroupNormEps),
      proj_in_(weights, name + ".proj_in", options.channels, inner_width(options), Linear::Bias::yes,
               projection_storage(options)),
      proj_out_(weights, name + ".proj_out", inner_width(options), options.channels, Linear::Bias::yes,
                projection_storage(options)) {
  for (std::int64_t i = 0; i < options.layers; ++i) {
    blocks_.emplace_back(weights, name + ".transformer_blocks." + std::to_string(i), options, registry);
  }
}

at::Tensor Transformer2DModel::forward(const at::Tensor& residual, const at::Tensor& input, const TextReader& text,
                                       ModelHooks* hooks) const {
  // A 1x1 convolution is the same linear map, so both kinds run on tokens (B, h * w, channels).
  at::Tensor hidden = proj_in_.forward(norm_.forward(input).flatten(2).transpose(1, 2), hooks);
  for (const BasicTransformerBlock& block : blocks_) hidden = block.forward(hidden, text, hooks);
  hidden = proj_out_.forward(hidden, hooks).transpose(1, 2).unflatten(2, {input.size(2), input.size(3)});
  return (residual + hidden).contiguous();
}

at::Tensor Transformer2DModel::forward(const at::Tensor& input, const at::Tensor& context, ModelHooks* hooks) const {
  const auto text = [&](const Attention& layer) { return layer.read(context, hooks); };
  return forward(input, input, text, hooks);
}

at::Tensor Transformer2DModel::forward_recomputed(const at::Tensor& input, const at::Tensor& context,
                                                  ModelHooks* hooks) const {
  // The order in which backward comes to them: the residual, the layers from the last, values before keys, the norm.
  std::vector<at::Tensor> inputs{input};
  std::vector<const Attention*> layers;
  for (const BasicTransformerBlock& block : blocks_) {
    for (const Attention* layer : block.text_layers()) {
      layers.push_back(layer);
      const KeyValueContext read = layer->read(context, hooks);
      inputs.insert(inputs.begin() + 1, {read.value, read.key});
    }
  }
  inputs.push_back(input);
  const auto again = [this, hooks, layers](const std::vector<at::Tensor>& in) {
    const auto text = [&](const Attention& layer) -> KeyValueContext {
      const auto place = std::find(layers.begin(), layers.end(), &layer) - layers.begin();
      const auto value = 1 + 2 * (layers.size() - 1 - static_cast<std::size_t>(place));
      return {in[value + 1], in[value]};
    };
    return forward(in.front(), in.back(), text, hooks);
  };
  return recompute_in_backward(again, inputs);
}

}  // namespace ldmtune::model
