#include "train/training_flops.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/base_outline.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

std::int64_t text_encoder_layers(const TrainConfig& config, const BaseShape& shape, std::size_t encoder) {
  const std::int64_t all = shape.text_encoders[encoder].layers;
  if (encoder == 1) return all;  // SDXL reads its second encoder to the end
  return std::max<std::int64_t>(0, all + (shape.text_encoders.size() > 1 ? 0 : 1) - config.caption.clip_skip);
}

model::TextEncoderCost text_cost(const TrainConfig& config, const BaseShape& shape) {
  model::TextEncoderCost sum;
  for (std::size_t i = 0; i < shape.text_encoders.size(); ++i) {
    model::TextEncoderShape evaluated = shape.text_encoders[i];
    evaluated.layers = text_encoder_layers(config, shape, i);
    const auto cost = model::text_encoder_cost(evaluated, shape.text_length, config.caption.max_chunks);
    sum.flops += cost.flops;
    sum.attention_flops += cost.attention_flops;
  }
  return sum;
}

double elements_of(const optim::ParameterSpec& parameter) {
  double elements = 1;
  for (const std::int64_t extent : parameter.shape) elements *= static_cast<double>(extent);
  return elements;
}

bool trains_text_encoder_weights(const TrainConfig& config) {
  return config.method == "dreambooth" && config.dreambooth.train_text_encoder;
}

/// Whether prompts go through the text encoder in every step instead of once a run.
bool text_is_in_step(const TrainConfig& config) {
  return config.method == "textual_inversion" || trains_text_encoder_weights(config) ||
         (config.method == "lora" && !config.lora.text_encoder_target_modules.empty());
}

/// Backward of the UNet for one sample: gradients of what lies behind the first thing that trains, and of its weights.
double unet_backward(const TrainConfig& config, const model::UNetCost& unet) {
  // What reads a text that stays as it is needs no gradient of it; hypernetworks stand between.
  const bool text_is_fixed = !text_is_in_step(config) && config.method != "hypernetwork";
  const double inputs = unet.flops + unet.attention_flops - (text_is_fixed ? unet.text_matrix_flops : 0);
  const double behind_attention = inputs - unet.flops_before_attention;
  if (config.method != "dreambooth" || config.dreambooth.train_unet == "none") return behind_attention;
  if (config.dreambooth.train_unet == "attention") return behind_attention + unet.attention_matrix_flops;
  return inputs + unet.flops - unet.attention_flops;
}

double sample_flops(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained, const BaseShape& shape,
                    std::int64_t height, std::int64_t width) {
  const model::UNetCost unet = model::unet_cost(shape.unet, height, width, shape.text_tokens(config.caption));
  double flops = unet.flops + unet_backward(config, unet);
  if (config.train.gradient_checkpointing) flops += unet.flops;
  if (text_is_in_step(config)) {
    const model::TextEncoderCost text = text_cost(config, shape);
    flops += 2 * text.flops + text.attention_flops;
    if (trains_text_encoder_weights(config)) flops += text.flops - text.attention_flops;
  }
  return flops + 3 * adapter_flops(config, trained, shape, height, width);
}

model::TextEncoderShape text_encoder_shape(const model::CLIPTextEncoder& encoder) {
  const auto first = encoder.parameters().find("text_model.encoder.layers.0.mlp.fc1.weight");
  return {encoder.num_hidden_layers(), encoder.hidden_size(),
          first == encoder.parameters().end() ? 4 * encoder.hidden_size() : first->second.size(0)};
}

}  // namespace

std::int64_t BaseShape::text_tokens(const CaptionConfig& caption) const { return text_length * caption.max_chunks; }

BaseShape shape_of(const model::BaseModel& base) {
  BaseShape shape{base.unet->config(), {}, base.model_max_length};
  if (base.text_encoder) shape.text_encoders.push_back(text_encoder_shape(*base.text_encoder));
  if (base.text_encoder_2) shape.text_encoders.push_back(text_encoder_shape(*base.text_encoder_2));
  return shape;
}

BaseShape read_base_shape(const fs::path& base) {
  const model::NetworkConfig unet = model::read_network_config(base, "unet");
  BaseShape shape{model::read_unet_config(unet.config, unet.source), {}};
  for (const char* component : {"text_encoder", "text_encoder_2"}) {
    const auto [config, source] = model::read_network_config(base, component);
    if (config.is_null()) continue;
    if (!config.is_object()) fail_input(source, ": expected a JSON object");
    const auto width = config.value("hidden_size", std::int64_t{768});
    shape.text_encoders.push_back(
        {config.value("num_hidden_layers", std::int64_t{12}), width, config.value("intermediate_size", 4 * width)});
    shape.text_length = config.value("max_position_embeddings", std::int64_t{77});
  }
  return shape;
}

double adapter_flops(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained,
                     const BaseShape& shape, std::int64_t height, std::int64_t width) {
  const std::int64_t text_tokens = shape.text_tokens(config.caption);
  double flops = 0;
  if (config.method == "hypernetwork") {
    const model::UNetCost unet = model::unet_cost(shape.unet, height, width, text_tokens);
    for (const optim::ParameterSpec& parameter : trained) {  // "768.k.linear.0.weight" meets the tokens of its width
      const auto tokens = unet.read_tokens.find(std::strtoll(parameter.name.c_str(), nullptr, 10));
      if (tokens != unet.read_tokens.end()) flops += 2 * elements_of(parameter) * tokens->second;
    }
  } else if (config.method == "lora") {
    for (const optim::ParameterSpec& parameter : trained) {  // "<component>.<layer>.lora_A.weight"
      const std::size_t dot = parameter.name.find('.'), end = parameter.name.rfind(".lora_");
      const std::string layer = parameter.name.substr(dot + 1, end - dot - 1);
      const double tokens = parameter.name.rfind("unet.", 0) == 0
                                ? model::tokens_read_by(layer, shape.unet, height, width, text_tokens)
                                : static_cast<double>(text_tokens);
      flops += 2 * elements_of(parameter) * tokens;
    }
  }
  return flops;  // what else trains is the base's own, or vectors that are looked up
}

double update_flops(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained, const BaseShape& shape,
                    const std::vector<LatentShare>& sizes) {
  double sum = 0, samples = 0;
  for (const LatentShare& share : sizes) {
    sum += share.samples * sample_flops(config, trained, shape, share.height, share.width);
    samples += share.samples;
  }
  const bool has_class_images = config.method == "dreambooth" && config.dreambooth.with_prior_preservation;
  return (has_class_images ? 2 : 1) * static_cast<double>(config.train.global_batch_size) * sum / samples;
}

std::int64_t updates_within_budget(const RunConfig& config, double update_flops) {
  const double updates = std::floor(config.max_tflops * 1e12 / update_flops);
  if (!(updates >= 1)) {
    fail_input("option train.max_tflops: ", format_number(config.max_tflops),
               " TFLOP are less than one update, which takes ", format_number(update_flops * 1e-12));
  }
  return static_cast<std::int64_t>(updates);
}

}  // namespace ldmtune::train
