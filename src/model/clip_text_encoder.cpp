#include "model/clip_text_encoder.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/attention.h"
#include "model/config_reader.h"
#include "model/layers.h"

namespace ldmtune::model {

namespace {

struct TextConfig {
  std::int64_t vocab_size, hidden_size, intermediate_size, layers, heads, positions, projection_dim, eos_token_id;
  double layer_norm_eps;
  Activation activation;
};

Activation read_hidden_act(ConfigReader& config) {
  const std::string name = config.text("hidden_act", "quick_gelu");
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "gelu") return Activation::gelu;
  config.refuse("hidden_act", "quick_gelu or gelu (anything else is not built yet)");
}

TextConfig read_text_config(const nlohmann::json& json, const std::string& component) {
  ConfigReader config(json, component);
  TextConfig text{.vocab_size = config.integer("vocab_size", 49408),
                  .hidden_size = config.integer("hidden_size", 512),
                  .intermediate_size = config.integer("intermediate_size", 2048),
                  .layers = config.integer("num_hidden_layers", 12),
                  .heads = config.integer("num_attention_heads", 8),
                  .positions = config.integer("max_position_embeddings", 77),
                  .projection_dim = config.integer("projection_dim", 512),
                  .eos_token_id = config.count("eos_token_id", 49407),
                  .layer_norm_eps = config.number("layer_norm_eps", 1e-5),
                  .activation = read_hidden_act(config)};
  if (text.hidden_size % text.heads != 0) {
    config.refuse("num_attention_heads", cat("a divisor of hidden_size = ", text.hidden_size));
  }
  config.only("model_type", {"clip_text_model"});
  config.only("attention_dropout", {0.0});
  return text;
}

class EncoderLayer {
 public:
  EncoderLayer(Weights& weights, const std::string& name, const TextConfig& config)
      : layer_norm1_(weights, name + ".layer_norm1", config.hidden_size, config.layer_norm_eps),
        q_proj_(weights, name + ".self_attn.q_proj", config.hidden_size, config.hidden_size),
        k_proj_(weights, name + ".self_attn.k_proj", config.hidden_size, config.hidden_size),
        v_proj_(weights, name + ".self_attn.v_proj", config.hidden_size, config.hidden_size),
        out_proj_(weights, name + ".self_attn.out_proj", config.hidden_size, config.hidden_size),
        layer_norm2_(weights, name + ".layer_norm2", config.hidden_size, config.layer_norm_eps),
        fc1_(weights, name + ".mlp.fc1", config.hidden_size, config.intermediate_size),
        fc2_(weights, name + ".mlp.fc2", config.intermediate_size, config.hidden_size),
        heads_(config.heads),
        activation_(config.activation) {}

  // hidden (B, L, D) -> (B, L, D); a token attends to itself and those before it.
  at::Tensor forward(const at::Tensor& hidden, ModelHooks* hooks) const {
    const at::Tensor normalized = layer_norm1_.forward(hidden);
    const at::Tensor attended =
        scaled_dot_product(project(q_proj_, normalized, hooks), project(k_proj_, normalized, hooks),
                           project(v_proj_, normalized, hooks), /*causal=*/true);
    const at::Tensor middle = hidden + out_proj_.forward(attended, hooks);
    const at::Tensor expanded = activate(fc1_.forward(layer_norm2_.forward(middle), hooks), activation_);
    return middle + fc2_.forward(expanded, hooks);
  }

 private:
  at::Tensor project(const Linear& linear, const at::Tensor& hidden, ModelHooks* hooks) const {
    return linear.forward(hidden, hooks).unflatten(2, {heads_, hidden.size(2) / heads_}).transpose(1, 2);
  }

  LayerNorm layer_norm1_;
  Linear q_proj_, k_proj_, v_proj_, out_proj_;
  LayerNorm layer_norm2_;
  Linear fc1_, fc2_;
  std::int64_t heads_;
  Activation activation_;
};

bool is_with_projection(const nlohmann::json& config, const Weights& weights) {
  const auto names = config.find("architectures");
  const bool is_named =
      names != config.end() && names->is_array() && !names->empty() && names->front() == "CLIPTextModelWithProjection";
  return is_named || weights.contains("text_projection.weight");
}

}  // namespace

struct CLIPTextEncoder::Impl {
  Impl(const nlohmann::json& json, Weights& weights)
      : config(read_text_config(json, "CLIPTextModel of " + weights.source())),
        token_embedding(
            weights.take("text_model.embeddings.token_embedding.weight", {config.vocab_size, config.hidden_size})),
        position_embedding(
            weights.take("text_model.embeddings.position_embedding.weight", {config.positions, config.hidden_size})),
        final_layer_norm(weights, "text_model.final_layer_norm", config.hidden_size, config.layer_norm_eps) {
    for (std::int64_t i = 0; i < config.layers; ++i) {
      layers.emplace_back(weights, "text_model.encoder.layers." + std::to_string(i), config);
    }
    if (is_with_projection(json, weights)) {
      text_projection.emplace(weights, "text_projection", config.hidden_size, config.projection_dim, Linear::Bias::no);
    }
    parameters = weights.taken();
  }

  Hidden run(const at::Tensor& input_ids, std::int64_t clip_skip, bool pools, ModelHooks* hooks) const {
    if (clip_skip < 1 || clip_skip > config.layers) {
      fail_input("clip_skip: expected 1 (the text encoder's last layer) to ", config.layers, " (its first), found ",
                 clip_skip);
    }
    if (input_ids.dim() != 2 || input_ids.size(1) > config.positions) {
      fail("text encoder: expected input_ids of shape (B, at most ", config.positions, "), found ", input_ids.sizes());
    }
    // Ids behind the vocabulary are new words, whose embeddings the hooks know.
    at::Tensor embedded =
        at::embedding(token_embedding, hooks ? input_ids.clamp_max(config.vocab_size - 1) : input_ids);
    if (hooks) embedded = hooks->token_embedding(input_ids, embedded).to(token_embedding.scalar_type());
    at::Tensor state = embedded + position_embedding.narrow(0, 0, input_ids.size(1));
    Hidden result;
    const std::int64_t wanted = config.layers - clip_skip;
    for (std::int64_t i = 0; i <= (pools ? config.layers - 1 : wanted); ++i) {
      state = layers[static_cast<std::size_t>(i)].forward(state, hooks);
      if (i == wanted) result.hidden = state;
    }
    if (pools) result.pooled = pool(input_ids, state, hooks);
    return result;
  }

  // The last layer's state (B, L, D) -> (B, projection_dim).
  at::Tensor pool(const at::Tensor& input_ids, const at::Tensor& state, ModelHooks* hooks) const {
    if (!text_projection) fail("text encoder: no projection, hence no pooled embedding");
    const at::Tensor ends = end_of_text(input_ids).view({-1, 1, 1}).expand({-1, 1, state.size(2)});
    return text_projection->forward(final_layer_norm.forward(state.gather(1, ends).squeeze(1)), hooks);
  }

  // (B, L) -> (B). Ids beyond the vocabulary are an adapter's own, which must not pass for the highest one.
  at::Tensor end_of_text(const at::Tensor& input_ids) const {
    constexpr std::int64_t kWrongId = 2;
    if (config.eos_token_id != kWrongId) return input_ids.eq(config.eos_token_id).to(at::kInt).argmax(1);
    return input_ids.masked_fill(input_ids.ge(config.vocab_size), 0).argmax(1);
  }

  TextConfig config;
  at::Tensor token_embedding;     // (vocab_size, hidden_size)
  at::Tensor position_embedding;  // (positions, hidden_size)
  std::vector<EncoderLayer> layers;
  LayerNorm final_layer_norm;
  std::optional<Linear> text_projection;
  store::TensorMap parameters;
};

CLIPTextEncoder::CLIPTextEncoder(const nlohmann::json& config, Weights& weights)
    : impl_(std::make_unique<Impl>(config, weights)) {}
CLIPTextEncoder::~CLIPTextEncoder() = default;
CLIPTextEncoder::CLIPTextEncoder(CLIPTextEncoder&&) noexcept = default;

at::Tensor CLIPTextEncoder::forward(const at::Tensor& input_ids, ModelHooks* hooks, std::int64_t clip_skip) const {
  return impl_->final_layer_norm.forward(impl_->run(input_ids, clip_skip, /*pools=*/false, hooks).hidden);
}

CLIPTextEncoder::Hidden CLIPTextEncoder::hidden_state(const at::Tensor& input_ids, std::int64_t clip_skip, bool pools,
                                                      ModelHooks* hooks) const {
  return impl_->run(input_ids, clip_skip, pools, hooks);
}

std::int64_t CLIPTextEncoder::hidden_size() const { return impl_->config.hidden_size; }
std::int64_t CLIPTextEncoder::num_hidden_layers() const { return impl_->config.layers; }
std::int64_t CLIPTextEncoder::projection_dim() const {
  return impl_->text_projection ? impl_->config.projection_dim : 0;
}
std::int64_t CLIPTextEncoder::max_position_embeddings() const { return impl_->config.positions; }
std::int64_t CLIPTextEncoder::vocab_size() const { return impl_->config.vocab_size; }
const store::TensorMap& CLIPTextEncoder::parameters() const { return impl_->parameters; }

}  // namespace ldmtune::model
