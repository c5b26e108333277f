#pragma once
// Export and import of whole bases: diffusers' folder <-> one file in the LDM layout.

#include <filesystem>
#include <string>

#include "core/config.h"
#include "model/ldm_file.h"

namespace ldmtune::cli {

/// "fp32", "fp16", "bf16", or "" for the weights as they are stored. Errors: InputError naming the option.
at::ScalarType parse_stored_type(const std::string& name);

/// Whether `given` stands for a base: a folder with model_index.json, or a file that is to become a whole model.
bool is_base(const std::filesystem::path& given, const std::string& format);

/// Writes a base as "ldm" (a .safetensors file) or "diffusers" (a folder). Errors: InputError naming option or file.
void export_base(const std::filesystem::path& base, const BaseConfig& config, const std::string& format,
                 const std::string& dtype, const std::filesystem::path& output);

/// The same for parts that are read already; tokenizers come from `base`, or from config.tokenizer.
void write_base(const model::BaseParts& parts, const std::filesystem::path& base, const BaseConfig& config,
                const std::string& format, const std::string& dtype, const std::filesystem::path& output);

}  // namespace ldmtune::cli
