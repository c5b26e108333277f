#include <array>

#include "core/error.h"
#include "core/log.h"
#include "model/base_folder.h"
#include "model/base_model.h"
#include "model/checkpoint_keys.h"
#include "model/ldm_file.h"
#include "model/ldm_keys.h"
#include "store/files.h"
#include "store/torch_file.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kUNet[] = "model.diffusion_model.", kVae[] = "first_stage_model.";
constexpr char kClip[] = "cond_stage_model.transformer.", kOpenClip[] = "cond_stage_model.model.";
constexpr char kXlClip[] = "conditioner.embedders.0.transformer.", kXlOpenClip[] = "conditioner.embedders.1.model.";

/// Moves the tensors whose names start with `prefix` out, without it; what is no floating-point weight goes.
store::TensorMap take(store::TensorMap& tensors, const std::string& prefix) {
  store::TensorMap taken;
  for (auto entry = tensors.lower_bound(prefix); entry != tensors.end() && entry->first.starts_with(prefix);) {
    if (entry->second.is_floating_point()) taken.emplace(entry->first.substr(prefix.size()), std::move(entry->second));
    entry = tensors.erase(entry);
  }
  return taken;
}

bool any_starts_with(const store::TensorMap& tensors, const std::string& prefix) {
  const auto found = tensors.lower_bound(prefix);
  return found != tensors.end() && found->first.starts_with(prefix);
}

bool any_contains(const store::TensorMap& tensors, const char* part) {
  for (const auto& [key, tensor] : tensors) {
    if (key.find(part) != std::string::npos) return true;
  }
  return false;
}

/// Errors: InputError saying what the file is, unless it is a base of a family that is built.
LdmFamily family_of(const store::TensorMap& tensors, const fs::path& file) {
  constexpr char kExpected[] = "; expected a Stable Diffusion 1, 2 or XL base in the original LDM layout";
  const auto refuse = [&](const char* what) { fail_input(file.string(), ": ", what, kExpected); };
  if (any_contains(tensors, "joint_blocks.")) refuse("the base is Stable Diffusion 3, not a UNet model");
  if (any_contains(tensors, "double_blocks.")) refuse("the base is Flux, not a UNet model");
  if (any_starts_with(tensors, "lora_unet_") || any_starts_with(tensors, "lora_te")) refuse("the file is a LoRA");
  if (any_starts_with(tensors, "control_model.")) refuse("the file is a ControlNet");
  if (any_starts_with(tensors, "conditioner.embedders.0.model.")) {
    refuse("the base is SDXL's refiner, which is not supported");
  }
  const auto input = tensors.find(cat(kUNet, "input_blocks.0.0.weight"));
  if (input == tensors.end() || input->second.dim() != 4) {
    refuse(any_starts_with(tensors, "encoder.") ? "the file is a VAE alone (give it as base.vae)"
                                                : "it holds no UNet (model.diffusion_model.input_blocks.0.0.weight)");
  }
  if (input->second.size(1) == 9) refuse("the base is an inpainting model, which is not supported");
  if (input->second.size(1) == 5) refuse("the base is a depth model, which is not supported");
  if (any_starts_with(tensors, kXlOpenClip)) return LdmFamily::sdxl;
  if (any_starts_with(tensors, kOpenClip)) return LdmFamily::sd2;
  if (!any_starts_with(tensors, kClip)) refuse("it holds no text encoder (cond_stage_model.transformer. or .model.)");
  return LdmFamily::sd1;
}

/// `parameterization: "v"` of the .yaml beside the file; empty if there is no such file or line.
std::string yaml_prediction_type(fs::path file) {
  file.replace_extension(".yaml");
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return "";
  const std::string text = store::read_text(file, 1 << 20), key = "parameterization:";
  const auto at = text.find(key);
  if (at == std::string::npos) return "epsilon";
  const auto begin = text.find_first_not_of(" \t\"'", at + key.size());
  return begin != std::string::npos && text[begin] == 'v' ? "v_prediction" : "epsilon";
}

std::string header_prediction_type(const store::SafetensorsFile& file) {
  if (file.tensors.contains("v_pred")) return "v_prediction";
  for (const char* key : {"modelspec.prediction_type", "modelspec.predict_key"}) {
    const auto found = file.metadata.find(key);
    if (found != file.metadata.end()) return found->second.starts_with("v") ? "v_prediction" : "epsilon";
  }
  return "";
}

json schedule_of(const fs::path& path, const store::SafetensorsFile& file, LdmFamily family, const std::string& given) {
  std::string type = given.empty() ? header_prediction_type(file) : given;
  if (type.empty()) type = yaml_prediction_type(path);
  if (type.empty() && family == LdmFamily::sd2) {
    type = "v_prediction";
    LDMTUNE_LOG(info) << path.string() << ": taken for a v-prediction model, as most of Stable Diffusion 2 are; "
                      << "base.prediction_type = epsilon says otherwise";
  }
  json schedule = scheduler_config_of(family, type.empty() ? "epsilon" : type);
  if (file.tensors.contains("ztsnr")) schedule["rescale_betas_zero_snr"] = true;
  return schedule;
}

/// OpenCLIP as SD 2 reads it: original files carry the projection and a last layer, of which it uses neither.
store::TensorMap sd2_text(store::TensorMap tensors, const std::string& source) {
  store::TensorMap renamed = text_from_open_clip(std::move(tensors), source);
  if (renamed.erase("text_projection.weight") == 0) return renamed;
  const std::string prefix = "text_model.encoder.layers.";
  std::int64_t last = 0;
  std::string_view rest;
  for (const auto& [key, tensor] : renamed) last = std::max(last, numbered_module(key, prefix, rest));
  std::erase_if(renamed, [&](const auto& entry) { return numbered_module(entry.first, prefix, rest) == last; });
  return renamed;
}

/// The configurations that ldmtune wrote into the header, or null.
json own_header(const store::SafetensorsFile& file, const fs::path& path) {
  const auto found = file.metadata.find("ldmtune.config");
  if (found == file.metadata.end()) return nullptr;
  json header = json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) fail_input(path.string(), ": its header's ldmtune.config is no JSON object");
  for (const auto& [name, value] : header.items()) {
    if (!value.is_object()) fail_input(path.string(), ": ", name, " in its header's ldmtune.config is no JSON object");
  }
  return header;
}

void add(BaseParts& parts, const std::string& name, store::TensorMap tensors, json config, const json& header,
         const std::string& source) {
  if (header.is_object() && header.contains(name)) config = header[name];
  parts.networks[name] = {std::move(config), std::move(tensors), source + " (" + name + ")"};
}

void add_texts(BaseParts& parts, store::TensorMap& tensors, const json& header, const std::string& source) {
  const bool is_open = parts.family == LdmFamily::sd2;
  store::TensorMap first =
      is_open ? sd2_text(take(tensors, kOpenClip), source)
              : normalize_text_encoder_keys(take(tensors, parts.family == LdmFamily::sdxl ? kXlClip : kClip), source);
  json config = text_config_of(first, is_open, source);
  add(parts, "text_encoder", std::move(first), std::move(config), header, source);
  if (parts.family != LdmFamily::sdxl) return;
  store::TensorMap second = text_from_open_clip(take(tensors, kXlOpenClip), source);
  config = text_config_of(second, /*open_clip=*/true, source);
  add(parts, "text_encoder_2", std::move(second), std::move(config), header, source);
}

store::TensorMap tensors_of(const store::PyValue& value, const fs::path& file) {
  const auto* dictionary = value.get_if<store::PyDict>();
  if (dictionary == nullptr) fail_input(file.string(), ": expected a dictionary of tensors");
  if (const store::PyValue* inner = dictionary->find("state_dict")) return tensors_of(*inner, file);
  store::TensorMap tensors;
  for (const auto& [key, item] : dictionary->items) {
    const auto* name = key.get_if<std::string>();
    const auto* tensor = item.get_if<at::Tensor>();
    if (name != nullptr && tensor != nullptr) tensors.emplace(*name, tensor->contiguous());
  }
  return tensors;
}

/// Networks and configurations, without the schedule.
BaseParts networks_of(store::SafetensorsFile& read, const json& header, const fs::path& file) {
  const std::string source = file.string();
  BaseParts parts;
  parts.family = family_of(read.tensors, file);
  parts.model_index = model_index_of(parts.family);
  if (header.is_object() && header.contains("model_index")) parts.model_index = header["model_index"];
  store::TensorMap unet = unet_from_ldm(take(read.tensors, kUNet), source);
  store::TensorMap vae = vae_from_ldm(take(read.tensors, kVae), source);
  json config = unet_config_of(unet, parts.family, source);
  add(parts, "unet", std::move(unet), std::move(config), header, source);
  config = vae_config_of(vae, parts.family, source);
  add(parts, "vae", std::move(vae), std::move(config), header, source);
  add_texts(parts, read.tensors, header, source);
  return parts;
}

/// A tensor's shape and type, with no memory behind them.
at::Tensor outline(at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions().dtype(type).device(at::kMeta));
}

}  // namespace

store::SafetensorsFile read_checkpoint_tensors(const fs::path& file) {
  store::SafetensorsFile read;
  if (file.extension() == ".safetensors") {
    read = store::read_safetensors(file);
  } else {
    read.tensors = tensors_of(store::read_torch_file(file), file);
  }
  return read;
}

BaseParts read_single_file(const fs::path& file, const std::string& prediction_type) {
  store::SafetensorsFile read = read_checkpoint_tensors(file);
  const json header = own_header(read, file);
  BaseParts parts = networks_of(read, header, file);
  const bool has_schedule = header.is_object() && header.contains("scheduler") && header["scheduler"].is_object();
  parts.scheduler_config = has_schedule ? header["scheduler"] : schedule_of(file, read, parts.family, prediction_type);
  if (!prediction_type.empty()) parts.scheduler_config["prediction_type"] = prediction_type;
  for (const auto& [name, network] : parts.networks) store::check_finite(network.tensors, file);
  LDMTUNE_LOG(info) << file.string() << ": " << family_name(parts.family) << ", "
                    << parts.scheduler_config.value("prediction_type", "epsilon");
  return parts;
}

BaseParts read_single_file_outline(const fs::path& file) {
  store::SafetensorsFile read;
  if (file.extension() == ".safetensors") {
    for (const store::TensorInfo& tensor : store::read_safetensors_header(file, &read.metadata)) {
      read.tensors.emplace(tensor.name, outline(tensor.shape, tensor.dtype));
    }
  } else {
    read = read_checkpoint_tensors(file);
    for (auto& [name, tensor] : read.tensors) tensor = outline(tensor.sizes(), tensor.scalar_type());
  }
  return networks_of(read, own_header(read, file), file);
}

void expect_tokenizer(const fs::path& file, const fs::path& tokenizer) {
  if (!tokenizer.empty()) return;
  fail_input(file.string(),
             ": a single file holds no tokenizer; give --base.tokenizer FOLDER, one with vocab.json and "
             "merges.txt, or the folder of a base of the same family");
}

BaseFiles open_single_file(const fs::path& file, const BaseModelOptions& options) {
  if (options.text) expect_tokenizer(file, options.tokenizer);
  auto parts = std::make_shared<BaseParts>(read_single_file(file, options.prediction_type));
  BaseFiles files;
  files.model_index = parts->model_index;
  files.scheduler_config = parts->scheduler_config;
  files.two_text_encoders = parts->family == LdmFamily::sdxl;
  files.read = [parts](const std::string& name) { return std::move(parts->networks.at(name)); };
  files.tokenizer = [folder = options.tokenizer](const std::string& name) {
    std::error_code ignored;
    if (fs::is_directory(folder / name, ignored)) return folder / name;
    if (name == "tokenizer") return folder;
    fail_input("option base.tokenizer: SDXL has two tokenizers; expected ", (folder / name).string(),
               " beside tokenizer/, found none");
  };
  return files;
}

Component read_vae(const fs::path& path, const json& base_config, const std::string& variant) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const fs::path folder = fs::is_directory(path / "vae", ignored) ? path / "vae" : path;
    return {read_component_json(folder / "config.json"),
            normalize_vae_keys(read_component_weights(folder, "diffusion_pytorch_model", variant), folder.string()),
            folder.string()};
  }
  if (!fs::is_regular_file(path, ignored)) fail_input("option base.vae: ", path.string(), " is not there");
  store::TensorMap tensors = read_checkpoint_tensors(path).tensors;
  if (any_starts_with(tensors, kVae)) tensors = take(tensors, kVae);
  std::erase_if(tensors, [](const auto& entry) {
    return !entry.second.is_floating_point() || entry.first.starts_with("loss.") ||
           entry.first.starts_with("model_ema.");
  });
  const std::string source = path.string();
  const bool is_diffusers = any_starts_with(tensors, "encoder.down_blocks.");
  tensors = is_diffusers ? normalize_vae_keys(std::move(tensors), source) : vae_from_ldm(std::move(tensors), source);
  store::check_finite(tensors, path);
  json config = vae_config_of(tensors, LdmFamily::sd1, source);
  for (const char* key : {"scaling_factor", "norm_num_groups", "sample_size", "act_fn"}) {
    if (base_config.contains(key)) config[key] = base_config[key];
  }
  return {std::move(config), std::move(tensors), source};
}

}  // namespace ldmtune::model
