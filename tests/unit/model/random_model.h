#pragma once
// Small networks with random weights, norms and biases too, and hooks that record what the networks ask of them.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/hooks.h"
#include "model/weights.h"

namespace ldmtune::model {

inline at::Tensor random_normal(at::IntArrayRef shape, std::uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed));
}

/// Matrices and kernels of variance 1 / fan-in, norm weights around 1, biases around 0; drawn by the key alone.
inline Weights random_weights(at::ScalarType dtype = at::kFloat) {
  const auto make = [](const std::string& key, at::IntArrayRef shape) {
    const at::Tensor values = random_normal(shape, std::hash<std::string>{}(key)&0xffffffff);
    if (shape.size() > 1) return values / std::sqrt(static_cast<double>(values[0].numel()));
    return values * 0.2 + (key.ends_with(".weight") ? 1.0 : 0.0);
  };
  return Weights(make, "random weights", dtype);
}

/// Two levels, attention on both; conv projections.
inline nlohmann::json small_unet_config() {
  return {{"block_out_channels", {8, 16}},
          {"down_block_types", {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D"}},
          {"up_block_types", {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}},
          {"layers_per_block", 1},
          {"attention_head_dim", 2},
          {"cross_attention_dim", 12},
          {"norm_num_groups", 4},
          {"sample_size", 8}};
}

inline nlohmann::json small_vae_config() {
  return {{"block_out_channels", {8, 12}},
          {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
          {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
          {"norm_num_groups", 4}};
}

inline nlohmann::json small_text_config() {
  return {{"vocab_size", 50},       {"hidden_size", 12},        {"intermediate_size", 20},
          {"num_hidden_layers", 2}, {"num_attention_heads", 3}, {"max_position_embeddings", 10},
          {"hidden_act", "gelu"}};
}

/// Changes nothing, remembers everything.
struct RecordingHooks : ModelHooks {
  void begin_forward() override { ++forwards; }
  KeyValueContext attention_context(const at::Tensor& context, const AttentionSite& site) override {
    sites.push_back(site);
    contexts.push_back(context);
    return {context, context};
  }
  at::Tensor linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) override {
    linear_widths[name] = {input.size(-1), output.size(-1)};
    linear_names.push_back(name);
    return output;
  }
  at::Tensor token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) override {
    embedded_ids.push_back(input_ids);
    return embedded;
  }

  int forwards = 0;
  std::vector<AttentionSite> sites;
  std::vector<at::Tensor> contexts;
  std::vector<std::string> linear_names;
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> linear_widths;
  std::vector<at::Tensor> embedded_ids;
};

}  // namespace ldmtune::model
