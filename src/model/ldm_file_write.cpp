#include "core/error.h"
#include "model/base_folder.h"
#include "model/base_model.h"
#include "model/ldm_file.h"
#include "model/ldm_keys.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

at::Tensor as_stored(const at::Tensor& tensor, at::ScalarType dtype) {
  const bool converts = dtype != at::ScalarType::Undefined && tensor.is_floating_point();
  return tensor.detach().to(at::kCPU, converts ? dtype : tensor.scalar_type()).contiguous();
}

void put(store::TensorMap& all, const std::string& prefix, const store::TensorMap& tensors, at::ScalarType dtype) {
  for (const auto& [key, tensor] : tensors) all.emplace(prefix + key, as_stored(tensor, dtype));
}

/// transformers loads weights in the type that config.json names, whatever the file holds.
json with_type(json config, at::ScalarType dtype) {
  if (dtype == at::ScalarType::Undefined) return config;
  const char* name = dtype == at::kHalf ? "float16" : dtype == at::kBFloat16 ? "bfloat16" : "float32";
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = name;
  }
  return config;
}

/// SD 2's text encoder is OpenCLIP; what tells it from SD 1's is its activation.
LdmFamily family_of(const BaseParts& parts) {
  if (parts.networks.contains("text_encoder_2")) return LdmFamily::sdxl;
  const json& text = parts.networks.at("text_encoder").config;
  return text.value("hidden_act", "quick_gelu") == "gelu" ? LdmFamily::sd2 : LdmFamily::sd1;
}

}  // namespace

BaseParts read_base_parts(const fs::path& base, const BaseModelOptions& options) {
  std::error_code ignored;
  if (fs::is_regular_file(base, ignored)) {
    BaseParts parts = read_single_file(base, options.prediction_type);
    if (!options.vae_path.empty()) {
      parts.networks["vae"] = read_vae(options.vae_path, parts.networks.at("vae").config, options.variant);
    }
    return parts;
  }
  const BaseFiles files = open_base_folder(base, options);
  BaseParts parts;
  parts.model_index = files.model_index;
  parts.scheduler_config = files.scheduler_config;
  if (!options.prediction_type.empty()) parts.scheduler_config["prediction_type"] = options.prediction_type;
  for (const char* name : {"unet", "vae", "text_encoder", "text_encoder_2"}) {
    if (name != std::string("text_encoder_2") || files.two_text_encoders) parts.networks[name] = files.read(name);
  }
  if (!options.vae_path.empty()) {
    parts.networks["vae"] = read_vae(options.vae_path, parts.networks.at("vae").config, options.variant);
  }
  parts.family = family_of(parts);
  return parts;
}

void write_single_file(const fs::path& file, const BaseParts& parts, at::ScalarType dtype) {
  const std::string source = file.string();
  json header = {{"scheduler", parts.scheduler_config}, {"model_index", parts.model_index}};
  for (const auto& [name, network] : parts.networks) header[name] = with_type(network.config, dtype);
  store::TensorMap all;
  put(all, "model.diffusion_model.", unet_to_ldm(parts.networks.at("unet").tensors, source), dtype);
  put(all, "first_stage_model.", vae_to_ldm(parts.networks.at("vae").tensors, source), dtype);
  const store::TensorMap& text = parts.networks.at("text_encoder").tensors;
  switch (family_of(parts)) {
    case LdmFamily::sd1:
      put(all, "cond_stage_model.transformer.", text, dtype);
      break;
    case LdmFamily::sd2:
      put(all, "cond_stage_model.model.", text_to_open_clip(text, source), dtype);
      break;
    case LdmFamily::sdxl:
      put(all, "conditioner.embedders.0.transformer.", text, dtype);
      put(all, "conditioner.embedders.1.model.", text_to_open_clip(parts.networks.at("text_encoder_2").tensors, source),
          dtype);
      break;
  }
  const std::string prediction = parts.scheduler_config.value("prediction_type", "epsilon");
  store::write_safetensors(
      file, all, {{"format", "pt"}, {"ldmtune.config", header.dump()}, {"modelspec.prediction_type", prediction}});
}

void write_base_folder(const fs::path& folder, const BaseParts& parts, at::ScalarType dtype,
                       const std::function<fs::path(const std::string&)>& tokenizer) {
  store::write_json(folder / "model_index.json", parts.model_index);
  fs::create_directories(folder / "scheduler");
  store::write_json(folder / "scheduler" / "scheduler_config.json", parts.scheduler_config);
  for (const auto& [name, network] : parts.networks) {
    const bool is_text = name.starts_with("text_encoder");
    fs::create_directories(folder / name);
    store::write_json(folder / name / "config.json", with_type(network.config, dtype));
    store::TensorMap stored;
    put(stored, "", network.tensors, dtype);
    store::write_safetensors(folder / name / (is_text ? "model.safetensors" : "diffusion_pytorch_model.safetensors"),
                             stored, {{"format", "pt"}});
    if (!is_text) continue;
    const std::string tokens = name == "text_encoder" ? "tokenizer" : "tokenizer_2";
    fs::copy(tokenizer(tokens), folder / tokens, fs::copy_options::recursive);
  }
}

}  // namespace ldmtune::model
