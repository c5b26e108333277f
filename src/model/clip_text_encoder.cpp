#include "model/clip_text_encoder.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/attention.h"
#include "model/config_reader.h"
#include "model/layers.h"

namespace ldmtune::model {

namespace {

struct TextConfig {
  std::int64_t vocab_size, hidden_size, intermediate_size, layers, heads, positions;
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
    parameters = weights.taken();
  }

  at::Tensor forward(const at::Tensor& input_ids, ModelHooks* hooks) const {
    if (input_ids.dim() != 2 || input_ids.size(1) > config.positions) {
      fail("text encoder: expected input_ids of shape (B, at most ", config.positions, "), found ", input_ids.sizes());
    }
    at::Tensor embedded = at::embedding(token_embedding, input_ids);
    if (hooks) embedded = hooks->token_embedding(input_ids, embedded).to(token_embedding.scalar_type());
    at::Tensor hidden = embedded + position_embedding.narrow(0, 0, input_ids.size(1));
    for (const EncoderLayer& layer : layers) hidden = layer.forward(hidden, hooks);
    return final_layer_norm.forward(hidden);
  }

  TextConfig config;
  at::Tensor token_embedding;     // (vocab_size, hidden_size)
  at::Tensor position_embedding;  // (positions, hidden_size)
  std::vector<EncoderLayer> layers;
  LayerNorm final_layer_norm;
  store::TensorMap parameters;
};

CLIPTextEncoder::CLIPTextEncoder(const nlohmann::json& config, Weights& weights)
    : impl_(std::make_unique<Impl>(config, weights)) {}
CLIPTextEncoder::~CLIPTextEncoder() = default;
CLIPTextEncoder::CLIPTextEncoder(CLIPTextEncoder&&) noexcept = default;

at::Tensor CLIPTextEncoder::forward(const at::Tensor& input_ids, ModelHooks* hooks) const {
  return impl_->forward(input_ids, hooks);
}

std::int64_t CLIPTextEncoder::hidden_size() const { return impl_->config.hidden_size; }
std::int64_t CLIPTextEncoder::max_position_embeddings() const { return impl_->config.positions; }
std::int64_t CLIPTextEncoder::vocab_size() const { return impl_->config.vocab_size; }
const store::TensorMap& CLIPTextEncoder::parameters() const { return impl_->parameters; }

}  // namespace ldmtune::model
