#pragma once
// Whole bases as one file in the original LDM layout (.safetensors, .ckpt), and as their parts.

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "model/base_files.h"
#include "model/ldm_config.h"
#include "store/safetensors.h"

namespace ldmtune::model {

/// A base's networks with their configurations, as stored: no module is built. Keys as our modules ask for.
struct BaseParts {
  nlohmann::json model_index, scheduler_config;
  std::map<std::string, Component> networks;  ///< by "unet", "vae", "text_encoder" (and "text_encoder_2": SDXL)
  LdmFamily family = LdmFamily::sd1;
};

/// A file's tensors and header: safetensors, or torch.save's format with the tensors in "state_dict" or at the top.
/// Nothing is executed. Errors: InputError naming the file and what is wrong with it.
store::SafetensorsFile read_checkpoint_tensors(const std::filesystem::path& file);

/// Reads a single-file base. Configurations are those that the file's own header carries (where ldmtune wrote it), else
/// told from shapes; v-prediction from `prediction_type`, else from the header, else from a `parameterization` in a
/// .yaml of the same name beside it, else SD 2's (v, with a log line that says so). EMA copies and training state are
/// left out. Errors: InputError saying what the file is instead (inpainting, refiner, SD 3, Flux, a LoRA ...).
BaseParts read_single_file(const std::filesystem::path& file, const std::string& prediction_type = "");

/// The same with tensors on the meta device, without a schedule: see model/base_outline.h, which keeps it.
BaseParts read_single_file_outline(const std::filesystem::path& file);

/// Errors: InputError where a single-file base needs a tokenizer and none is given.
void expect_tokenizer(const std::filesystem::path& file, const std::filesystem::path& tokenizer);

/// As BaseModel sees it. `options.tokenizer` names the tokenizer's folder, or a folder with tokenizer/ (and
/// tokenizer_2/) in it. Errors: also InputError if text is asked for and it is not given.
BaseFiles open_single_file(const std::filesystem::path& file, const BaseModelOptions& options);

/// A VAE alone: a folder with config.json, a file under LDM's keys (with or without "first_stage_model.") or
/// diffusers'. `base_config`: the config.json of the base's own VAE, whose scaling_factor a file without one takes.
Component read_vae(const std::filesystem::path& path, const nlohmann::json& base_config, const std::string& variant);

/// All parts of a base, folder or single file. options.vae, .text and .unet are taken as set.
BaseParts read_base_parts(const std::filesystem::path& base, const BaseModelOptions& options);

/// Writes `file` in the LDM layout, floating-point tensors in `dtype` (undefined: as they are), configurations in the
/// header. The same parts give the same bytes. Errors: InputError for networks that the layout cannot hold.
void write_single_file(const std::filesystem::path& file, const BaseParts& parts, at::ScalarType dtype);
/// Writes the diffusers layout into the empty folder `folder`. `tokenizer(name)` names the folder to copy.
void write_base_folder(const std::filesystem::path& folder, const BaseParts& parts, at::ScalarType dtype,
                       const std::function<std::filesystem::path(const std::string&)>& tokenizer);

}  // namespace ldmtune::model
