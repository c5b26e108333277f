#pragma once
// Configuration of every command: plain structs, and one function each that declares their options.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/path_list.h"

namespace ldmtune {

struct DataConfig {
  std::uint64_t seed = 0;
  std::uint64_t subset = 0;
  std::uint64_t subset_seed = 0;
  std::vector<double> weights;
  std::string latent_sampling = "once";
};

struct RunConfig {
  std::uint64_t seed = 0;
  std::int64_t max_train_steps = 1000;
  std::int64_t num_train_epochs = 0;
  double max_tflops = 0;
  std::int64_t global_batch_size = 8;
  std::int64_t micro_batch_size = 1;
  std::string max_grad_norm = "1.0";
  std::string max_grad_value = "0";
  std::int64_t checkpointing_steps = 500;
  std::int64_t checkpoints_total_limit = 3;
  std::string resume_from_checkpoint;
  std::int64_t stop_after = 0;
  std::string mixed_precision = "no";
  bool gradient_checkpointing = false;
  std::string device = "auto";
  std::filesystem::path trace;
  std::int64_t trace_steps = 1;
  std::int64_t log_steps = 1;
};

/// When training ends before its last update.
struct StopConfig {
  std::string rule = "none";
  std::int64_t every = 10;
  std::int64_t window = 200;
  double threshold = 0.15;
  std::int64_t images = 4;
};

struct OptimConfig {
  std::string optimizer = "adamw";
  std::string learning_rate = "1e-4";
  std::string lr_scheduler = "constant";
  std::int64_t lr_warmup_steps = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_weight_decay = 0.01;
  double adam_epsilon = 1e-8;
  double lion_beta1 = 0.9;
  double lion_beta2 = 0.99;
  double prodigy_beta3 = 0.0;
  double prodigy_d_coef = 1.0;
  bool prodigy_use_bias_correction = true;
  bool prodigy_safeguard_warmup = true;
  bool use_ema = false;
  double ema_decay = 0.9999;
};

/// What a sample's error costs.
struct LossConfig {
  double snr_gamma = 0.0;
  std::string loss_type = "l2";
  std::string huber_schedule = "snr";
  double huber_c = 0.1;
  bool masked = false;
  double unmasked_weight = 0.0;
  bool normalize_masked_area = true;
};

/// Training noise and timesteps.
struct NoiseConfig {
  double offset = 0.0;
  std::string timestep_sampling = "uniform";
  double timestep_mean = 0.0;
  double timestep_std = 1.0;
  bool stratified = false;
  std::int64_t min_timestep = 0;
  std::int64_t max_timestep = 0;
  bool rescale_betas_zero_snr = false;
};

struct HypernetworkConfig {
  std::string name;
  std::vector<double> layer_structure{1, 2, 1};
  std::string activation = "linear";
  std::string weight_init = "Normal";
  bool layer_norm = false;
  std::string layer_norm_init = "a1111";
  bool activate_output = false;
  std::vector<double> dropout_structure;
  std::vector<double> widths;
  std::filesystem::path init_from;
};

struct LoraConfig {
  std::int64_t rank = 8;
  double alpha = 0;
  std::string target_modules = "to_q, to_k, to_v, to_out.0";
  std::string text_encoder_target_modules;
  std::string text_encoder_learning_rate;
  std::filesystem::path init_from;
};

struct DreamboothConfig {
  std::string train_unet = "all";
  bool train_text_encoder = false;
  std::string text_encoder_learning_rate;
  std::string instance_prompt;
  bool with_prior_preservation = false;
  double prior_loss_weight = 1.0;
  std::filesystem::path class_data;
  std::vector<std::string> class_prompt;
  std::int64_t num_class_images = 100;
  std::filesystem::path init_from;
};

struct TextualInversionConfig {
  std::vector<std::string> placeholder_token;
  std::vector<double> num_vectors;
  std::vector<std::string> initializer_token;
  std::vector<std::string> initializer_text;
  std::vector<std::string> initial_embedding;
};

struct CaptionConfig {
  std::string template_text;
  std::string name;
  double dropout = 0.0;
  bool shuffle_tags = false;
  std::int64_t keep_tokens = 0;
  double tag_dropout = 0.0;
  bool weights = false;
  std::int64_t clip_skip = 1;
  std::int64_t max_chunks = 1;
};

struct ValidationConfig {
  std::int64_t steps = 100;
  std::uint64_t seed = 0;
  std::filesystem::path adjacent;
  std::vector<std::string> adjacent_prompts;
  std::int64_t num_adjacent_images = 32;
  std::string adjacent_trigger;
  std::int64_t timesteps = 4;
  std::int64_t batch_size = 8;
  std::int64_t max_images = 0;
};

/// Pictures: previews while training, and the `sample` command.
struct SampleConfig {
  std::int64_t steps = 0;
  std::vector<std::string> prompts;
  std::int64_t heldout_prompts = 4;
  std::string negative_prompt;
  std::uint64_t seed = 0;
  std::int64_t num_inference_steps = 20;
  double guidance_scale = 3.0;
  std::string sampler = "ddim";
};

/// What a base is made of besides its folder or file.
struct BaseConfig {
  std::filesystem::path tokenizer;
  std::filesystem::path vae;
  std::string prediction_type;
};
void declare(OptionTable& table, BaseConfig& config);

/// What `train` reads.
struct TrainConfig {
  std::string method = "hypernetwork";
  std::filesystem::path base;
  std::string base_merge;
  BaseConfig base_options;
  std::string variant;
  PathList data;
  std::filesystem::path output;
  DataConfig data_options;
  RunConfig train;
  StopConfig stop;
  OptimConfig optim;
  LossConfig loss;
  NoiseConfig noise;
  HypernetworkConfig hypernetwork;
  TextualInversionConfig textual_inversion;
  LoraConfig lora;
  DreamboothConfig dreambooth;
  CaptionConfig caption;
  ValidationConfig validation;
  SampleConfig sample;
};
void declare(OptionTable& table, TrainConfig& config);
/// Gives options that were not set the defaults of config.method, where it has its own (textual inversion's learning
/// rate); call it after the last set(). `table` is the one that config was declared in.
void apply_method_defaults(OptionTable& table, const TrainConfig& config);

/// What `prepare` reads.
struct PrepareConfig {
  std::filesystem::path base;
  BaseConfig base_options;
  std::string variant;
  std::filesystem::path images;
  std::filesystem::path output;
  std::int64_t resolution = 0;
  bool random_flip = false;
  bool skip_bad = false;
  bool captions_only = false;
  std::int64_t validation_images = -1;
  std::int64_t test_images = -1;
  std::int64_t batch_size = 4;
  std::int64_t images_per_part = 4096;
  bool known_only = false;
  std::string mask = "none";
};
void declare(OptionTable& table, PrepareConfig& config);

}  // namespace ldmtune
