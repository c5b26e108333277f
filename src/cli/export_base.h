#pragma once
// Export and import of whole bases: diffusers' folder <-> one file in the LDM layout.

#include <filesystem>
#include <string>

#include "core/config.h"
#include "model/ldm_file.h"

namespace ldmtune::cli {

/// "fp32", "fp16", "bf16", or "" for the weights as they are stored. Errors: InputError naming the option.
at::ScalarType parse_stored_type(const std::string& name);

/// Whether `given` is a folder in the diffusers layout.
bool is_base_folder(const std::filesystem::path& given);

/// InputError unless something may be written to `output`: it is given, not there yet, in a folder that is.
void check_output(const std::filesystem::path& output);

/// Writes a base as "ldm" (a .safetensors file) or "diffusers" (a folder). Errors: InputError naming option or file.
void export_base(const std::filesystem::path& base, const BaseConfig& config, const std::string& variant,
                 const std::string& format, const std::string& dtype, const std::filesystem::path& output);

/// The same for parts that are read already. For a diffusers folder tokenizers come from `base`, or from
/// config.tokenizer; what else `base` holds (safety checker ...) is copied where it is a folder, and crossed out in
/// model_index.json where it is not there.
void write_base(const model::BaseParts& parts, const std::filesystem::path& base, const BaseConfig& config,
                const std::string& format, const std::string& dtype, const std::filesystem::path& output);

}  // namespace ldmtune::cli
