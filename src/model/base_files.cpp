#include "model/base_files.h"

#include "model/base_folder.h"
#include "model/base_model.h"
#include "model/checkpoint_keys.h"

namespace ldmtune::model {

namespace fs = std::filesystem;

BaseFiles open_base_folder(const fs::path& folder, const BaseModelOptions& options) {
  BaseFiles files;
  files.model_index = check_model_index(folder, options);
  files.two_text_encoders = has_two_text_encoders(files.model_index);
  if (options.unet) files.scheduler_config = read_component_json(folder / "scheduler" / "scheduler_config.json");
  files.tokenizer = [folder](const std::string& name) { return folder / name; };
  files.read = [folder, variant = options.variant](const std::string& name) {
    const fs::path component = folder / name;
    const bool is_text = name.starts_with("text_encoder");
    Component read{read_component_json(component / "config.json"),
                   read_component_weights(component, is_text ? "model" : "diffusion_pytorch_model", variant),
                   component.string()};
    if (is_text) read.tensors = normalize_text_encoder_keys(std::move(read.tensors), read.source);
    if (name == "vae") read.tensors = normalize_vae_keys(std::move(read.tensors), read.source);
    return read;
  };
  return files;
}

}  // namespace ldmtune::model
