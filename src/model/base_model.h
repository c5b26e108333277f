#pragma once
// A base model (SD 1, SD 2 or SDXL) from a folder in the diffusers layout or a single file in
// the original LDM layout. No network is ever touched.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/config.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_encoder.h"
#include "model/clip_tokenizer.h"
#include "model/unet_2d_condition.h"

namespace ldmtune::model {

struct BaseModelOptions {
  std::string variant;  ///< "" or "fp16": diffusion_pytorch_model.fp16.safetensors; falls back to the other file if
                        ///< only that is there
  at::ScalarType dtype = at::kFloat;  ///< of the networks; SDXL's VAE, which overflows in fp16, stays in fp32 then
  at::Device device = at::kCPU;
  std::filesystem::path tokenizer = {};       ///< for a single file: the tokenizer's folder, or a base's
  std::filesystem::path vae_path = {};        ///< another VAE than the base's: file or folder
  std::string prediction_type = {};           ///< epsilon or v_prediction instead of what the base says
  bool vae = true, unet = true, text = true;  ///< which components to load
};

/// Options of a base that a configuration names.
BaseModelOptions options_of(const BaseConfig& config, const std::string& variant, at::Device device = at::kCPU);

struct BaseModel {
  std::filesystem::path folder;
  std::unique_ptr<CLIPTokenizer> tokenizer;
  std::unique_ptr<CLIPTextEncoder> text_encoder;
  std::unique_ptr<CLIPTokenizer> tokenizer_2;  ///< SDXL's second; null otherwise
  std::unique_ptr<CLIPTextEncoder> text_encoder_2;
  std::unique_ptr<UNet2DConditionModel> unet;
  std::unique_ptr<AutoencoderKL> vae;
  nlohmann::json scheduler_config;
  std::int64_t model_max_length =
      77;  ///< tokens a chunk, special ones included: the tokenizer's, at most the encoder's positions
  /// SDXL: where the negative prompt is empty, context and pooled embedding are zeros instead of an empty text's.
  bool force_zeros_for_empty_prompt = false;
  std::string unet_sha256, text_encoder_sha256, text_encoder_2_sha256,
      vae_sha256;  ///< store::sha256_tensors of what was loaded, under the published names
  /// One hash of the components that change what training does (tokenizer files, text encoder, unet, scheduler config).
  std::string sha256;

  /// How many text encoders were loaded: 2 for SDXL, 1 for SD 1 and 2.
  std::int64_t text_encoders() const { return text_encoder ? (text_encoder_2 ? 2 : 1) : 0; }
};

/// Errors: InputError naming the missing folder, file or key, or what the base is where it is not a UNet model (SD 3,
/// Flux ...).
BaseModel load_base_model(const std::filesystem::path& base, const BaseModelOptions& options = {});

}  // namespace ldmtune::model
