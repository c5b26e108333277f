#pragma once
// What a base is made of, told without its weights: for plans, which must not take a base's memory.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "model/ldm_file.h"

namespace ldmtune::model {

/// Whether a base is a single file in the original LDM layout, not a folder.
bool is_single_file(const std::filesystem::path& base);

/// The networks of a single-file base with their configurations, as read_single_file gives them, with tensors on the
/// meta device: names, types and shapes. Of safetensors the header alone is read; other files are read whole, and
/// forgotten. Kept until the process ends, or the file changes. Errors: as read_single_file.
const BaseParts& single_file_outline(const std::filesystem::path& file);

/// config.json of a network of a base, folder or single file; `source` names it in errors.
struct NetworkConfig {
  nlohmann::json config;  ///< null where the base has no such network; unet must be there
  std::string source;
};
/// Errors: InputError naming the file.
NetworkConfig read_network_config(const std::filesystem::path& base, const std::string& network);

}  // namespace ldmtune::model
