#include "model/ldm_config.h"

#include <algorithm>

#include "core/error.h"
#include "model/ldm_keys.h"

namespace ldmtune::model {
namespace {

using nlohmann::json;

constexpr std::int64_t kHeadWidth = 64;

class Shapes {
 public:
  Shapes(const store::TensorMap& tensors, const std::string& source) : tensors_(tensors), source_(source) {}

  bool has(const std::string& key) const { return tensors_.contains(key); }
  std::int64_t dims(const std::string& key) const { return tensor(key).dim(); }
  std::int64_t size(const std::string& key, std::int64_t dim) const {
    const at::Tensor& found = tensor(key);
    if (dim >= found.dim()) fail_input(source_, ": tensor \"", key, "\" has shape ", found.sizes());
    return found.size(dim);
  }
  /// One more than the highest number that follows `prefix` in a key.
  std::int64_t count(const std::string& prefix) const {
    std::int64_t most = 0;
    std::string_view rest;
    for (auto entry = tensors_.lower_bound(prefix); entry != tensors_.end() && entry->first.starts_with(prefix);
         ++entry) {
      most = std::max(most, numbered_module(entry->first, prefix, rest) + 1);
    }
    return most;
  }

 private:
  const at::Tensor& tensor(const std::string& key) const {
    const auto found = tensors_.find(key);
    if (found == tensors_.end()) fail_input(source_, ": tensor \"", key, "\" is missing; is the file complete?");
    return found->second;
  }
  const store::TensorMap& tensors_;
  const std::string& source_;
};

std::vector<std::int64_t> channels_of(const Shapes& shapes, const std::string& half, std::int64_t levels) {
  std::vector<std::int64_t> channels;
  for (std::int64_t i = 0; i < levels; ++i) {
    channels.push_back(shapes.size(cat(half, "down_blocks.", i, ".resnets.0.conv1.weight"), 0));
  }
  return channels;
}

void add_attention(const Shapes& shapes, const std::vector<std::int64_t>& channels, LdmFamily family, json& config) {
  const auto levels = static_cast<std::int64_t>(channels.size());
  std::vector<std::string> down, up;
  std::vector<std::int64_t> depths, heads;
  for (std::int64_t i = 0; i < levels; ++i) {
    const std::string block = cat("down_blocks.", i, ".attentions.0.");
    const bool attends = shapes.has(block + "norm.weight");
    down.emplace_back(attends ? "CrossAttnDownBlock2D" : "DownBlock2D");
    up.emplace_back(shapes.has(cat("up_blocks.", i, ".attentions.0.norm.weight")) ? "CrossAttnUpBlock2D" : "UpBlock2D");
    depths.push_back(std::max<std::int64_t>(1, shapes.count(block + "transformer_blocks.")));
    heads.push_back(std::max<std::int64_t>(1, channels[static_cast<std::size_t>(i)] / kHeadWidth));
  }
  depths.back() = shapes.count("mid_block.attentions.0.transformer_blocks.");  // as deep as the coarsest level's
  config["down_block_types"] = down;
  config["up_block_types"] = up;
  config["transformer_layers_per_block"] = depths;
  config["attention_head_dim"] = family == LdmFamily::sd1 ? json(8) : json(heads);
}

}  // namespace

const char* family_name(LdmFamily family) {
  return family == LdmFamily::sd1 ? "Stable Diffusion 1" : family == LdmFamily::sd2 ? "Stable Diffusion 2" : "SDXL";
}

json unet_config_of(const store::TensorMap& tensors, LdmFamily family, const std::string& source) {
  const Shapes shapes(tensors, source);
  const auto channels = channels_of(shapes, "", shapes.count("down_blocks."));
  if (channels.empty()) fail_input(source, ": its UNet has no down blocks; is the file complete?");
  json config = {
      {"_class_name", "UNet2DConditionModel"},
      {"in_channels", shapes.size("conv_in.weight", 1)},
      {"out_channels", shapes.size("conv_out.weight", 0)},
      {"block_out_channels", channels},
      {"layers_per_block", shapes.count("down_blocks.0.resnets.")},
      {"cross_attention_dim", shapes.size("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1)},
      {"use_linear_projection", shapes.dims("mid_block.attentions.0.proj_in.weight") == 2},
      {"sample_size", family == LdmFamily::sdxl ? 128 : 64}};
  add_attention(shapes, channels, family, config);
  if (shapes.has("add_embedding.linear_1.weight")) {
    config["addition_embed_type"] = "text_time";
    config["addition_time_embed_dim"] = 256;
    config["projection_class_embeddings_input_dim"] = shapes.size("add_embedding.linear_1.weight", 1);
  }
  return config;
}

json vae_config_of(const store::TensorMap& tensors, LdmFamily family, const std::string& source) {
  const Shapes shapes(tensors, source);
  const std::int64_t levels = shapes.count("encoder.down_blocks.");
  if (levels == 0) fail_input(source, ": its VAE has no encoder; is the file complete?");
  return {{"_class_name", "AutoencoderKL"},
          {"in_channels", shapes.size("encoder.conv_in.weight", 1)},
          {"out_channels", shapes.size("decoder.conv_out.weight", 0)},
          {"latent_channels", shapes.size("decoder.conv_in.weight", 1)},
          {"block_out_channels", channels_of(shapes, "encoder.", levels)},
          {"down_block_types", std::vector<std::string>(static_cast<std::size_t>(levels), "DownEncoderBlock2D")},
          {"up_block_types", std::vector<std::string>(static_cast<std::size_t>(levels), "UpDecoderBlock2D")},
          {"layers_per_block", shapes.count("encoder.down_blocks.0.resnets.")},
          {"sample_size", family == LdmFamily::sdxl ? 1024 : 512},
          {"scaling_factor", family == LdmFamily::sdxl ? 0.13025 : 0.18215}};
}

json text_config_of(const store::TensorMap& tensors, bool open_clip, const std::string& source) {
  const Shapes shapes(tensors, source);
  const std::string embedding = "text_model.embeddings.token_embedding.weight";
  const std::string layer = "text_model.encoder.layers.0.mlp.fc1.weight";
  const std::int64_t width = shapes.size(embedding, 1), vocabulary = shapes.size(embedding, 0);
  const bool projects = shapes.has("text_projection.weight");
  return {{"architectures", {projects ? "CLIPTextModelWithProjection" : "CLIPTextModel"}},
          {"model_type", "clip_text_model"},
          {"vocab_size", vocabulary},
          {"hidden_size", width},
          {"intermediate_size", shapes.size(layer, 0)},
          {"num_hidden_layers", shapes.count("text_model.encoder.layers.")},
          {"num_attention_heads", std::max<std::int64_t>(1, width / kHeadWidth)},
          {"max_position_embeddings", shapes.size("text_model.embeddings.position_embedding.weight", 0)},
          {"hidden_act", open_clip ? "gelu" : "quick_gelu"},
          {"projection_dim", projects ? shapes.size("text_projection.weight", 0) : width},
          {"bos_token_id", vocabulary - 2},
          {"eos_token_id", vocabulary - 1},
          {"pad_token_id", open_clip ? 0 : vocabulary - 1}};
}

json scheduler_config_of(LdmFamily family, const std::string& prediction_type) {
  json config = {{"_class_name", family == LdmFamily::sdxl ? "EulerDiscreteScheduler" : "DDIMScheduler"},
                 {"beta_start", 0.00085},
                 {"beta_end", 0.012},
                 {"beta_schedule", "scaled_linear"},
                 {"num_train_timesteps", 1000},
                 {"steps_offset", 1},
                 {"prediction_type", prediction_type}};
  config.update(family == LdmFamily::sdxl ? json{{"timestep_spacing", "leading"}}
                                          : json{{"clip_sample", false}, {"set_alpha_to_one", false}});
  return config;
}

json model_index_of(LdmFamily family) {
  const bool is_xl = family == LdmFamily::sdxl;
  const auto pair = [](const char* library, const char* name) { return json::array({library, name}); };
  json index = {{"_class_name", is_xl ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline"},
                {"_diffusers_version", "0.30.0"},
                {"unet", pair("diffusers", "UNet2DConditionModel")},
                {"vae", pair("diffusers", "AutoencoderKL")},
                {"text_encoder", pair("transformers", "CLIPTextModel")},
                {"tokenizer", pair("transformers", "CLIPTokenizer")},
                {"scheduler", pair("diffusers", is_xl ? "EulerDiscreteScheduler" : "DDIMScheduler")}};
  const json absent = json::array({nullptr, nullptr});
  if (is_xl) {
    index["text_encoder_2"] = pair("transformers", "CLIPTextModelWithProjection");
    index["tokenizer_2"] = pair("transformers", "CLIPTokenizer");
    index["force_zeros_for_empty_prompt"] = true;
  } else {
    index.update({{"safety_checker", absent}, {"requires_safety_checker", false}});
  }
  index.update({{"feature_extractor", absent}, {"image_encoder", absent}});
  return index;
}

}  // namespace ldmtune::model
