#include "model/base_folder.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "model/base_model.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kExpected[] = "expected a Stable Diffusion 1, 2 or XL base model in the diffusers folder layout";

bool is_there(const fs::path& path) {
  std::error_code ignored;  // a symlink loop counts as absent
  return fs::exists(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// A component's class by model_index.json's ["library", "Class"]; empty where it is absent or null.
std::string class_of(const json& index, const std::string& component) {
  const auto entry = index.find(component);
  const bool is_pair = entry != index.end() && entry->is_array() && entry->size() == 2 && (*entry)[1].is_string();
  return is_pair ? (*entry)[1].get<std::string>() : "";
}

/// Names of snapshot folders inside a Hugging Face cache folder, for the remedy.
std::string snapshot_hint(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", ignored)) {
    return cat(" It is a cache folder: give its snapshot, ", entry.path().string(), ".");
  }
  return "";
}

void refuse_other_pipelines(const fs::path& file, const std::string& pipeline, const json& index) {
  const auto refuse = [&](const char* what) {
    fail_input(file.string(), ": the base is ", pipeline, ", ", what, "; ", kExpected);
  };
  const auto has = [&](const char* part) { return pipeline.find(part) != std::string::npos; };
  if (!class_of(index, "transformer").empty() || has("Flux") || has("StableDiffusion3")) {
    refuse("not a UNet model");
  }
  if (has("XLImg2Img")) refuse("SDXL's refiner, which is not supported");
  if (has("Inpaint")) refuse("an inpainting model, which is not supported");
  if (has("Depth2Img") || has("Upscale") || has("Pix2Pix") || has("ImageVariation")) {
    refuse("whose UNet reads more than latents and text, which is not supported");
  }
}

void expect_component(const fs::path& folder, const json& index, const std::string& component,
                      const std::vector<std::string>& classes) {
  const std::string found = class_of(index, component);
  if (std::find(classes.begin(), classes.end(), found) == classes.end()) {
    fail_input((folder / "model_index.json").string(), ": ", component, " is ", found.empty() ? "absent" : found,
               "; expected ", classes.front());
  }
  if (!is_folder(folder / component)) {
    fail_input((folder / component).string(), ": no such folder, though model_index.json names it; expected ",
               classes.front(), "'s files. Copy the base again.");
  }
}

bool has_weights(const fs::path& component, const std::string& stem, const std::string& variant) {
  const std::string dotted = variant.empty() ? "" : "." + variant;
  const std::array<std::string, 4> names{stem + dotted + ".safetensors", stem + ".safetensors.index" + dotted + ".json",
                                         stem + dotted + ".safetensors.index.json",
                                         stem + ".safetensors" + dotted + ".index.json"};
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return is_there(component / name); });
}

/// Name of a weights file in torch's own format; empty if there is none.
std::string torch_weights(const fs::path& component) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(component, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".pt")) return name;
  }
  return "";
}

}  // namespace

json check_model_index(const fs::path& folder, const BaseModelOptions& options) {
  if (!is_there(folder)) fail_input("base ", folder.string(), ": no such folder; ", kExpected);
  if (!is_folder(folder)) {
    fail_input("base ", folder.string(), ": a file; ", kExpected,
               ". Convert it with diffusers: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)");
  }
  const fs::path file = folder / "model_index.json";
  if (!is_there(file)) {
    fail_input("base ", folder.string(), ": holds no model_index.json; ", kExpected, ".", snapshot_hint(folder));
  }
  const json index = store::read_json(file);
  const bool is_index = index.is_object() && index.contains("_class_name") && index["_class_name"].is_string();
  if (!is_index) fail_input(file.string(), ": expected an object with _class_name, the pipeline's");
  refuse_other_pipelines(file, index["_class_name"].get<std::string>(), index);
  if (options.unet) expect_component(folder, index, "unet", {"UNet2DConditionModel"});
  if (options.vae) expect_component(folder, index, "vae", {"AutoencoderKL"});
  if (options.text) {
    expect_component(folder, index, "text_encoder", {"CLIPTextModel"});
    expect_component(folder, index, "tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"});
  }
  if (options.text && has_two_text_encoders(index)) {
    expect_component(folder, index, "text_encoder_2", {"CLIPTextModelWithProjection"});
    expect_component(folder, index, "tokenizer_2", {"CLIPTokenizer", "CLIPTokenizerFast"});
  }
  return index;
}

bool has_two_text_encoders(const json& model_index) {
  const bool is_xl = model_index.value("_class_name", std::string()).find("XL") != std::string::npos;
  return is_xl || !class_of(model_index, "text_encoder_2").empty();
}

json read_component_json(const fs::path& file) {
  if (!is_there(file)) fail_input(file.string(), ": no such file; ", kExpected, ". Copy the base again.");
  json config = store::read_json(file);
  if (!config.is_object()) fail_input(file.string(), ": expected a JSON object, found ", config.type_name());
  for (auto entry = config.begin(); entry != config.end();) entry = entry->is_null() ? config.erase(entry) : ++entry;
  return config;
}

store::TensorMap read_component_weights(const fs::path& component, const std::string& stem,
                                        const std::string& variant) {
  std::string found = variant;
  if (!has_weights(component, stem, variant)) {
    const std::string other = variant.empty() ? "fp16" : "";
    const std::string torch_file = torch_weights(component);
    if (has_weights(component, stem, other)) {
      const auto name = [](const std::string& which) { return which.empty() ? std::string("plain") : which; };
      LDMTUNE_LOG(info) << component.string() << ": no " << name(variant) << " weights; reading the " << name(other)
                        << " ones";
      found = other;
    } else if (!torch_file.empty()) {
      fail_input(component.string(), ": expected ", stem, ".safetensors, found ", torch_file,
                 " only; convert it to safetensors (diffusers: from_pretrained(FOLDER).save_pretrained(FOLDER))");
    }
  }
  store::TensorMap tensors = store::read_sharded_safetensors(component, stem, found);
  store::check_finite(tensors, component);
  return tensors;
}

}  // namespace ldmtune::model
