#include "model/base_model.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "model/base_files.h"
#include "model/ldm_file.h"
#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What of the scheduler's config changes training; the rest is about sampling.
constexpr std::array<const char*, 7> kTrainingSchedule{
    "beta_start",          "beta_end",        "beta_schedule",         "trained_betas",
    "num_train_timesteps", "prediction_type", "rescale_betas_zero_snr"};

template <class Network>
std::unique_ptr<Network> load_network(const BaseModelOptions& options, at::ScalarType dtype, Component component,
                                      std::string& sha256) {
  sha256 = store::sha256_tensors(component.tensors);
  Weights weights(std::move(component.tensors), component.source, dtype, options.device);
  auto network = std::make_unique<Network>(component.config, weights);
  weights.expect_all_taken();
  return network;
}

std::unique_ptr<CLIPTokenizer> load_tokenizer(const fs::path& folder, const CLIPTextEncoder& encoder) {
  auto tokenizer = std::make_unique<CLIPTokenizer>(folder);
  if (tokenizer->vocab_size() > encoder.vocab_size()) {
    fail_input(folder.string(), ": ", tokenizer->vocab_size(), " tokens; expected at most ", encoder.vocab_size(),
               ", as the text encoder has embeddings");
  }
  return tokenizer;
}

void load_text(const BaseModelOptions& options, const BaseFiles& files, BaseModel& base) {
  base.text_encoder =
      load_network<CLIPTextEncoder>(options, options.dtype, files.read("text_encoder"), base.text_encoder_sha256);
  base.tokenizer = load_tokenizer(files.tokenizer("tokenizer"), *base.text_encoder);
  base.model_max_length = std::min(base.tokenizer->model_max_length(), base.text_encoder->max_position_embeddings());
  if (!files.two_text_encoders) return;
  base.text_encoder_2 =
      load_network<CLIPTextEncoder>(options, options.dtype, files.read("text_encoder_2"), base.text_encoder_2_sha256);
  base.tokenizer_2 = load_tokenizer(files.tokenizer("tokenizer_2"), *base.text_encoder_2);
  if (base.text_encoder_2->projection_dim() == 0) {
    fail_input(base.folder.string(), ": its second text encoder has no text_projection.weight; expected an SDXL model");
  }
  if (base.text_encoder_2->max_position_embeddings() < base.model_max_length) {
    fail_input(base.folder.string(), ": its second text encoder reads ", base.text_encoder_2->max_position_embeddings(),
               " tokens; expected at least ", base.model_max_length, ", as the first");
  }
  base.force_zeros_for_empty_prompt = files.model_index.value("force_zeros_for_empty_prompt", true);
}

/// What the single-file formats are called; other files are not bases.
bool is_checkpoint_name(const fs::path& path) {
  return path.extension() == ".safetensors" || path.extension() == ".ckpt" || path.extension() == ".pt";
}

Component vae_of(const BaseModelOptions& options, const BaseFiles& files) {
  if (options.vae_path.empty()) return files.read("vae");
  return read_vae(options.vae_path, files.read("vae").config, options.variant);
}

/// SDXL's VAE overflows in fp16.
at::ScalarType vae_dtype(const BaseModelOptions& options, const BaseFiles& files) {
  return files.two_text_encoders && options.dtype == at::kHalf ? at::kFloat : options.dtype;
}

void expect_fitting_text(const BaseModel& base) {
  const std::string unet = (base.folder / "unet" / "config.json").string();
  const std::int64_t width =
      base.text_encoder->hidden_size() + (base.text_encoder_2 ? base.text_encoder_2->hidden_size() : 0);
  if (base.unet->cross_attention_dim() != width) {
    fail_input(unet, ": cross_attention_dim is ", base.unet->cross_attention_dim(), "; expected ", width,
               base.text_encoder_2 ? ", both text encoders' hidden_size together" : ", the text encoder's hidden_size");
  }
  const std::int64_t pooled = base.text_encoder_2 ? base.text_encoder_2->projection_dim() : 0;
  if (base.unet->pooled_width() != pooled) {
    fail_input(unet, ": the UNet reads ",
               base.unet->pooled_width() == 0 ? "no pooled text embedding"
                                              : cat("a pooled text embedding ", base.unet->pooled_width(), " wide"),
               "; the base's text encoders give ", pooled == 0 ? "none" : cat("one ", pooled, " wide"),
               ". Its components are of different models");
  }
}

void expect_fitting_components(const BaseModel& base) {
  if (base.unet && base.vae && base.unet->in_channels() != base.vae->latent_channels()) {
    fail_input((base.folder / "unet" / "config.json").string(), ": in_channels is ", base.unet->in_channels(),
               "; expected ", base.vae->latent_channels(),
               ", the VAE's latent_channels (inpainting and other models with more inputs are not supported)");
  }
  if (base.unet && base.text_encoder) expect_fitting_text(base);
}

std::string hash_of(const BaseModel& base) {
  json schedule = json::object();
  for (const char* key : kTrainingSchedule) {
    if (base.scheduler_config.contains(key)) schedule[key] = base.scheduler_config[key];
  }
  const std::string second = base.text_encoder_2 ? cat("tokenizer_2 ", base.tokenizer_2->sha256(), "\ntext_encoder_2 ",
                                                       base.text_encoder_2_sha256, "\n")
                                                 : "";
  return store::sha256_text(cat("tokenizer ", base.tokenizer->sha256(), "\ntext_encoder ", base.text_encoder_sha256,
                                "\nunet ", base.unet_sha256, "\nscheduler ", schedule.dump(), "\n", second));
}

}  // namespace

BaseModelOptions options_of(const BaseConfig& config, const std::string& variant, at::Device device) {
  BaseModelOptions options;
  options.variant = variant;
  options.device = device;
  options.tokenizer = config.tokenizer;
  options.vae_path = config.vae;
  options.prediction_type = config.prediction_type;
  return options;
}

BaseModel load_base_model(const fs::path& path, const BaseModelOptions& options) {
  if (!options.prediction_type.empty() && options.prediction_type != "epsilon" &&
      options.prediction_type != "v_prediction") {
    fail_input("option base.prediction_type: expected epsilon or v_prediction, found '", options.prediction_type, "'");
  }
  std::error_code ignored;
  const bool is_file = fs::is_regular_file(path, ignored) && is_checkpoint_name(path);
  const BaseFiles files = is_file ? open_single_file(path, options) : open_base_folder(path, options);
  BaseModel base;
  base.folder = path;
  base.scheduler_config = files.scheduler_config;
  if (options.unet && !options.prediction_type.empty()) {
    base.scheduler_config["prediction_type"] = options.prediction_type;
  }
  if (options.text) load_text(options, files, base);
  if (options.vae) {
    base.vae = load_network<AutoencoderKL>(options, vae_dtype(options, files), vae_of(options, files), base.vae_sha256);
  }
  if (options.unet) {
    base.unet = load_network<UNet2DConditionModel>(options, options.dtype, files.read("unet"), base.unet_sha256);
  }
  expect_fitting_components(base);
  if (options.text && options.unet) base.sha256 = hash_of(base);
  return base;
}

}  // namespace ldmtune::model
