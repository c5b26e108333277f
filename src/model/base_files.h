#pragma once
// Where a base's components come from: a folder in the diffusers layout, or a single file in the original LDM layout.

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "store/tensor_map.h"

namespace ldmtune::model {

struct BaseModelOptions;

/// One network: config.json and tensors, under the keys our modules ask for.
struct Component {
  nlohmann::json config;
  store::TensorMap tensors;
  std::string source;  ///< its folder or file, for errors
};

struct BaseFiles {
  nlohmann::json model_index;       ///< as model_index.json
  nlohmann::json scheduler_config;  ///< empty where the UNet is not asked for
  bool two_text_encoders = false;   ///< SDXL
  /// Reads "unet", "vae", "text_encoder" or "text_encoder_2"; each once.
  std::function<Component(const std::string& name)> read;
  /// Folder of "tokenizer" or "tokenizer_2". Errors: InputError if there is none.
  std::function<std::filesystem::path(const std::string& name)> tokenizer;
};

/// A folder in the diffusers layout. Errors: InputError naming what is missing or what the base is.
BaseFiles open_base_folder(const std::filesystem::path& folder, const BaseModelOptions& options);

}  // namespace ldmtune::model
