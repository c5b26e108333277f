#include "model/base_model.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "model/base_folder.h"
#include "model/checkpoint_keys.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What of the scheduler's config changes training; the rest is about sampling.
constexpr std::array<const char*, 7> kTrainingSchedule{
    "beta_start",          "beta_end",        "beta_schedule",         "trained_betas",
    "num_train_timesteps", "prediction_type", "rescale_betas_zero_snr"};

void load_text(const BaseModelOptions& options, BaseModel& base) {
  base.tokenizer = std::make_unique<CLIPTokenizer>(base.folder / "tokenizer");
  const fs::path component = base.folder / "text_encoder";
  const json config = read_component_json(component / "config.json");
  auto tensors =
      normalize_text_encoder_keys(read_component_weights(component, "model", options.variant), component.string());
  base.text_encoder_sha256 = store::sha256_tensors(tensors);
  Weights weights(std::move(tensors), component.string(), options.dtype, options.device);
  base.text_encoder = std::make_unique<CLIPTextEncoder>(config, weights);
  weights.expect_all_taken();
  base.model_max_length = std::min(base.tokenizer->model_max_length(), base.text_encoder->max_position_embeddings());
  if (base.tokenizer->vocab_size() > base.text_encoder->vocab_size()) {
    fail_input((base.folder / "tokenizer").string(), ": ", base.tokenizer->vocab_size(), " tokens; expected at most ",
               base.text_encoder->vocab_size(), ", as the text encoder has embeddings");
  }
}

void load_unet(const BaseModelOptions& options, BaseModel& base) {
  const fs::path component = base.folder / "unet";
  const json config = read_component_json(component / "config.json");
  store::TensorMap tensors = read_component_weights(component, "diffusion_pytorch_model", options.variant);
  base.unet_sha256 = store::sha256_tensors(tensors);
  Weights weights(std::move(tensors), component.string(), options.dtype, options.device);
  base.unet = std::make_unique<UNet2DConditionModel>(config, weights);
  weights.expect_all_taken();
}

void load_vae(const BaseModelOptions& options, BaseModel& base) {
  const fs::path component = base.folder / "vae";
  const json config = read_component_json(component / "config.json");
  auto tensors = normalize_vae_keys(read_component_weights(component, "diffusion_pytorch_model", options.variant),
                                    component.string());
  base.vae_sha256 = store::sha256_tensors(tensors);
  Weights weights(std::move(tensors), component.string(), options.dtype, options.device);
  base.vae = std::make_unique<AutoencoderKL>(config, weights);
  weights.expect_all_taken();
}

void expect_fitting_components(const BaseModel& base) {
  const std::string unet = (base.folder / "unet" / "config.json").string();
  if (base.unet && base.vae && base.unet->in_channels() != base.vae->latent_channels()) {
    fail_input(unet, ": in_channels is ", base.unet->in_channels(), "; expected ", base.vae->latent_channels(),
               ", the VAE's latent_channels (inpainting and other models with more inputs are not supported)");
  }
  if (base.unet && base.text_encoder && base.unet->cross_attention_dim() != base.text_encoder->hidden_size()) {
    fail_input(unet, ": cross_attention_dim is ", base.unet->cross_attention_dim(), "; expected ",
               base.text_encoder->hidden_size(), ", the text encoder's hidden_size");
  }
}

std::string hash_of(const BaseModel& base) {
  json schedule = json::object();
  for (const char* key : kTrainingSchedule) {
    if (base.scheduler_config.contains(key)) schedule[key] = base.scheduler_config[key];
  }
  return store::sha256_text(cat("tokenizer ", base.tokenizer->sha256(), "\ntext_encoder ", base.text_encoder_sha256,
                                "\nunet ", base.unet_sha256, "\nscheduler ", schedule.dump(), "\n"));
}

}  // namespace

BaseModel load_base_model(const fs::path& folder, const BaseModelOptions& options) {
  check_model_index(folder, options);
  BaseModel base;
  base.folder = folder;
  if (options.unet) base.scheduler_config = read_component_json(folder / "scheduler" / "scheduler_config.json");
  if (options.text) load_text(options, base);
  if (options.vae) load_vae(options, base);
  if (options.unet) load_unet(options, base);
  expect_fitting_components(base);
  if (options.text && options.unet) base.sha256 = hash_of(base);
  return base;
}

}  // namespace ldmtune::model
