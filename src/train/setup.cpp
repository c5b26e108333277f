#include "train/setup.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "adapt/merge.h"
#include "core/error.h"
#include "data/sample_stream.h"
#include "diffusion/loss.h"
#include "optim/schedule.h"
#include "pipeline/device.h"
#include "pipeline/zero_terminal_snr.h"
#include "store/files.h"
#include "train/class_images.h"
#include "train/concept_templates.h"
#include "train/stopping.h"
#include "train/training_flops.h"
#include "train/trial.h"

namespace ldmtune::train {
namespace {

void require(bool condition, const std::string& option, const char* expected, const std::string& found) {
  if (!condition) fail_input("option ", option, ": expected ", expected, ", found ", found);
}

void check_numbers(const TrainConfig& config) {
  const auto& t = config.train;
  require(t.max_train_steps >= 1, "train.max_train_steps", "1 or more", std::to_string(t.max_train_steps));
  require(t.max_tflops >= 0 && std::isfinite(t.max_tflops), "train.max_tflops", "0 (off) or above",
          format_number(t.max_tflops));
  if (t.max_tflops > 0 && t.num_train_epochs > 0) {
    fail_input("options train.max_tflops and train.num_train_epochs: both say how long to train; give one");
  }
  require(t.micro_batch_size >= 1, "train.micro_batch_size", "1 or more", std::to_string(t.micro_batch_size));
  require(t.global_batch_size >= 1, "train.global_batch_size", "1 or more", std::to_string(t.global_batch_size));
  require(t.checkpointing_steps >= 0, "train.checkpointing_steps", "0 or more", std::to_string(t.checkpointing_steps));
  require(t.log_steps >= 1, "train.log_steps", "1 or more", std::to_string(t.log_steps));
  require(t.stop_after >= 0, "train.stop_after", "0 or more", std::to_string(t.stop_after));
  require(config.caption.max_chunks >= 1 && config.caption.max_chunks <= 64, "caption.max_chunks", "1 to 64",
          std::to_string(config.caption.max_chunks));
  const auto& o = config.optim;
  require(o.adam_beta1 >= 0 && o.adam_beta1 < 1, "optim.adam_beta1", "0 or above, below 1",
          format_number(o.adam_beta1));
  require(o.adam_beta2 >= 0 && o.adam_beta2 < 1, "optim.adam_beta2", "0 or above, below 1",
          format_number(o.adam_beta2));
  require(o.adam_epsilon > 0, "optim.adam_epsilon", "above 0", format_number(o.adam_epsilon));
  require(o.adam_weight_decay >= 0, "optim.adam_weight_decay", "0 or above", format_number(o.adam_weight_decay));
  for (const auto& [option, value] : {std::pair{"optim.lion_beta1", o.lion_beta1},
                                      {"optim.lion_beta2", o.lion_beta2},
                                      {"optim.prodigy_beta3", o.prodigy_beta3},
                                      {"optim.ema_decay", o.ema_decay}}) {
    require(value >= 0 && value < 1, option, "0 or above, below 1", format_number(value));
  }
  require(o.prodigy_d_coef > 0, "optim.prodigy_d_coef", "above 0", format_number(o.prodigy_d_coef));
  diffusion::check_loss_options(config.loss);
  require(config.noise.offset >= 0, "noise.offset", "0 (off) or above", format_number(config.noise.offset));
}

void check_method(const TrainConfig& config) {
  static const std::set<std::string> methods{"hypernetwork", "lora", "textual_inversion", "dreambooth"};
  if (methods.count(config.method) == 0) {
    fail_input("option method: expected hypernetwork, lora, textual_inversion or dreambooth, found '", config.method,
               "'");
  }
}

void check_dreambooth(const TrainConfig& config) {
  const DreamboothConfig& d = config.dreambooth;
  require(d.prior_loss_weight >= 0 && std::isfinite(d.prior_loss_weight), "dreambooth.prior_loss_weight", "0 or above",
          format_number(d.prior_loss_weight));
  require(d.num_class_images >= 1, "dreambooth.num_class_images", "1 or more", std::to_string(d.num_class_images));
  require(!d.with_prior_preservation || !d.class_data.empty(), "dreambooth.class_data",
          "a dataset folder of class images, there or to be made (dreambooth.with_prior_preservation asks for one)",
          "none");
  require(d.instance_prompt.empty() || config.caption.template_text.empty(), "dreambooth.instance_prompt",
          "either it or caption.template, which says the same", "both");
  if (d.text_encoder_learning_rate.empty()) return;
  const optim::PiecewiseSchedule rate(d.text_encoder_learning_rate, "dreambooth.text_encoder_learning_rate");
}

void check_lora(const LoraConfig& l) {
  if (l.text_encoder_learning_rate.empty()) return;
  require(!l.text_encoder_target_modules.empty(), "lora.text_encoder_learning_rate",
          "lora.text_encoder_target_modules beside it (without, no text encoder trains)", "none");
  const optim::PiecewiseSchedule rate(l.text_encoder_learning_rate, "lora.text_encoder_learning_rate");
}

void check_adjacent(const ValidationConfig& v) {
  require(v.num_adjacent_images >= 1, "validation.num_adjacent_images", "1 or more",
          std::to_string(v.num_adjacent_images));
  for (const auto& [option, is_given] : {std::pair{"validation.adjacent_prompts", !v.adjacent_prompts.empty()},
                                         {"validation.adjacent_trigger", !v.adjacent_trigger.empty()}}) {
    if (is_given && v.adjacent.empty()) fail_input("option ", option, ": needs validation.adjacent, a dataset folder");
  }
}

}  // namespace

bool changes_base(const TrainConfig& config) { return config.method == "dreambooth"; }

TrainConfig checked_config(const TrainConfig& config, int ranks) {
  check_method(config);
  for (const auto& [option, is_missing] :
       {std::pair{"base", config.base.empty()}, {"data", config.data.empty()}, {"output", config.output.empty()}}) {
    if (is_missing) fail_input("option ", option, ": not given; see ldmtune train --help");
  }
  check_numbers(config);
  const StoppingRule stopping(config.stop);
  check_adjacent(config.validation);
  data::checked_leaves(config.train.global_batch_size, config.train.micro_batch_size, ranks);
  const std::string& precision = config.train.mixed_precision;
  require(precision == "no" || precision == "bf16" || precision == "fp16", "train.mixed_precision", "no, bf16 or fp16",
          precision);
  const std::string& device = config.train.device;
  require(device == "auto" || device == "cpu" || device == "cuda", "train.device", "auto, cpu or cuda", device);
  parse_latent_sampling(config.data_options.latent_sampling);
  const optim::PiecewiseSchedule norm(config.train.max_grad_norm, "train.max_grad_norm");
  const optim::PiecewiseSchedule value(config.train.max_grad_value, "train.max_grad_value");
  if (norm.at(0) > 0 && value.at(0) > 0 && config.train.max_grad_norm != RunConfig{}.max_grad_norm) {
    fail_input("options train.max_grad_norm and train.max_grad_value: clip by norm or by value, not both");
  }
  const optim::LearningRateSchedule rate(config.optim.learning_rate, config.optim.lr_scheduler,
                                         config.optim.lr_warmup_steps, config.train.max_train_steps);
  if (config.method == "lora") check_lora(config.lora);
  TrainConfig result = config;
  if (config.method == "dreambooth") {
    check_dreambooth(config);
    const std::vector<std::string> prompts = instance_prompts(config);
    if (prompts.size() == 1) {
      result.caption.template_text = prompts.front();
      result.dreambooth.instance_prompt.clear();
    }
  }
  // Clipping by value replaces the default clipping by norm.
  if (value.at(0) > 0) result.train.max_grad_norm = "0";
  result.caption.name = concept_name(config);  // the run's echo says it
  const ConceptTemplates templates(result);
  return result;
}

namespace {

model::BaseModel load_unmerged_base(const TrainConfig& config, at::Device device) {
  model::BaseModelOptions options = model::options_of(config.base_options, config.variant, device);
  // What trains is the base as it is, not rounded: its networks are cast once the arena has it.
  if (config.train.mixed_precision == "no" || changes_base(config)) return model::load_base_model(config.base, options);
  // The autoencoder draws previews; in bf16 it would band, in fp16 overflow.
  options.unet = options.text = false;
  model::BaseModel autoencoder = model::load_base_model(config.base, options);
  options.unet = options.text = true;
  options.vae = false;
  options.dtype = config.train.mixed_precision == "fp16" ? at::kHalf : at::kBFloat16;
  model::BaseModel base = model::load_base_model(config.base, options);
  base.vae = std::move(autoencoder.vae);
  base.vae_sha256 = autoencoder.vae_sha256;
  return base;
}

model::BaseModel load_base(const TrainConfig& config, at::Device device, std::string& unmerged_sha256) {
  model::BaseModel base = load_unmerged_base(config, device);
  unmerged_sha256 = base.sha256;
  // Training, validation and previews of this process all meet the changed schedule.
  if (config.noise.rescale_betas_zero_snr) pipeline::force_zero_terminal_snr(base, "noise.rescale_betas_zero_snr");
  adapt::merge_into(base, config.base_merge);
  base.unet->set_gradient_checkpointing(config.train.gradient_checkpointing);
  return base;
}

void check_autoencoder(const data::DatasetMix& mix, const model::BaseModel& base) {
  for (const auto& dataset : mix.datasets()) {
    const std::string& vae_sha256 = dataset->index().vae_sha256;
    if (vae_sha256 == base.vae_sha256) continue;
    fail_input(dataset->folder().string(), ": encoded with another VAE (", vae_sha256.substr(0, 12), ") than ",
               base.folder.string(), "'s (", base.vae_sha256.substr(0, 12), "); run ldmtune prepare with this base");
  }
}

std::unique_ptr<data::DatasetMix> mix_of(std::unique_ptr<data::LatentDataset> only) {
  return only ? std::make_unique<data::DatasetMix>(std::move(only)) : nullptr;
}

std::int64_t updates_of(const TrainConfig& config, double samples_per_pass) {
  std::int64_t updates = config.train.max_train_steps;
  if (config.train.num_train_epochs > 0) {
    const double samples = static_cast<double>(config.train.num_train_epochs) * samples_per_pass;
    updates = static_cast<std::int64_t>(std::ceil(samples / static_cast<double>(config.train.global_batch_size)));
  }
  const auto last = optim::PiecewiseSchedule(config.optim.learning_rate, "optim.learning_rate").last_update();
  return last ? std::min(updates, *last) : updates;
}

double counted_update_flops(const TrainConfig& config, const SharedSetup& shared) {
  // The other methods train what the base's shape tells already.
  const bool has_own = config.method == "hypernetwork" || config.method == "lora";
  const auto trained = has_own ? make_adapter(config, shared.base)->parameters() : std::vector<optim::ParameterSpec>();
  return update_flops(config, trained, shape_of(shared.base), training_sizes(shared.dataset));
}

/// With max_train_steps as train.max_tflops decides it.
TrainConfig within_budget(TrainConfig config, const SharedSetup& shared) {
  if (config.train.max_tflops > 0) {
    config.train.max_train_steps = updates_within_budget(config.train, counted_update_flops(config, shared));
  }
  return config;
}

data::TrainingRows training_rows(const data::DatasetMix& dataset, const TrainConfig& config) {
  const DataConfig& options = config.data_options;
  data::TrainingRows rows = dataset.training_rows(options.subset, options.subset_seed, options.weights);
  if (rows.count() == 0) {
    fail_input(dataset.name(), ": nothing to train on: no image in a training split",
               options.weights.empty() ? "" : " of a dataset with a weight above 0 (data.weights)");
  }
  return rows;
}

std::optional<BatchSource> class_source_of(const SharedSetup& shared, pipeline::PromptEncoder& prompts,
                                           const TrainConfig& config) {
  if (!shared.class_data) return std::nullopt;
  return BatchSource::of_class_images(*shared.class_data, shared.schedule, prompts, config, shared.device);
}

/// The first `count` training images by hash, or all: with as many as are held out, the gap between the two losses
/// compares like with like.
std::vector<std::size_t> training_images_to_measure(const data::DatasetMix& dataset, const TrainConfig& config,
                                                    std::size_t count) {
  std::set<std::size_t> used;
  for (const auto& bucket : training_rows(dataset, config).samples) used.insert(bucket.begin(), bucket.end());
  std::vector<std::size_t> measured;
  for (const std::size_t sample : validation_samples(dataset, store::Split::train, 0)) {
    if (used.count(sample) && measured.size() < count) measured.push_back(sample);
  }
  return measured;
}

}  // namespace

SharedSetup::SharedSetup(const TrainConfig& given, comm::Communicator& comm)
    : config(checked_config(given, comm.size())),
      device(pipeline::choose_device(config.train.device, comm)),
      base(load_base(config, device, unmerged_base_sha256_)),
      schedule(base.scheduler_config),
      prompts(base, pipeline::prompt_options(config.caption)),
      dataset(config.data),
      class_data(mix_of(open_class_data(config, base, unmerged_base_sha256_, comm))),
      adjacent(mix_of(open_adjacent_data(config, base, unmerged_base_sha256_, comm))),
      validator(base, schedule, prompts, config, comm, device) {
  check_autoencoder(dataset, base);
  if (class_data) check_autoencoder(*class_data, base);
  if (adjacent) check_autoencoder(*adjacent, base);
}

std::string SharedSetup::training_data_sha256() const {
  return class_data ? store::sha256_text(dataset.sha256() + class_data->sha256()) : dataset.sha256();
}

std::string training_data_sha256(const TrainConfig& config) {
  const std::string concept_sha256 = data::datasets_sha256(config.data);
  if (config.method != "dreambooth" || !config.dreambooth.with_prior_preservation) return concept_sha256;
  const std::string class_sha256 = data::datasets_sha256(config.dreambooth.class_data);
  if (concept_sha256.empty() || class_sha256.empty()) return {};
  return store::sha256_text(concept_sha256 + class_sha256);
}

const SharedSetup::BaseMeasurement& SharedSetup::base_measurement(const ValidationSet& set) {
  const std::pair key{set.kind, set.samples};
  const auto known = base_measurements_.find(key);
  if (known != base_measurements_.end()) return known->second;
  BaseMeasurement& made = base_measurements_[key];
  made.loss = validator.evaluate(set, nullptr, {.keep = set.measures_drift ? &made.predictions : nullptr});
  if (set.measures_drift) made.loss.drift_by_image.assign(set.samples.size(), 0.0);
  return made;
}

TrialSetup::TrialSetup(const TrainConfig& given, SharedSetup& shared_setup, int ranks)
    : config(within_budget(checked_config(given, ranks), shared_setup)),
      shared(shared_setup),
      update_flops(counted_update_flops(config, shared)),
      source(shared.dataset, training_rows(shared.dataset, config), shared.schedule, shared.prompts, config,
             shared.device),
      class_source(class_source_of(shared, shared.prompts, config)),
      max_train_steps(updates_of(config, source.samples_per_pass())) {
  collect_validation_sets();
}

void TrialSetup::collect_validation_sets() {
  const std::int64_t limit = config.validation.max_images;
  const auto add = [&](const char* kind, const data::DatasetMix& from, std::vector<std::size_t> samples,
                       bool uses_templates) {
    if (!samples.empty()) validation_sets.push_back({kind, &from, std::move(samples), uses_templates});
  };
  const data::DatasetMix& dataset = shared.dataset;
  const auto heldout = validation_samples(dataset, store::Split::validation, limit);
  add("heldout", dataset, heldout, true);
  add("train", dataset, training_images_to_measure(dataset, config, std::max<std::size_t>(1, heldout.size())), true);
  if (shared.adjacent) add_adjacent_sets(validation_samples(*shared.adjacent, store::Split::validation, limit));
  if (config.stop.rule != "none") {
    const auto images = static_cast<std::size_t>(config.stop.images);
    stop_set = {"stop", &dataset, training_images_to_measure(dataset, config, images), true};
  }
  test_set = {"test", &dataset, validation_samples(dataset, store::Split::test, limit), true};
}

void TrialSetup::add_adjacent_sets(const std::vector<std::size_t>& samples) {
  if (samples.empty()) return;
  ValidationSet set{"adjacent", shared.adjacent.get(), samples, /*uses_templates=*/false};
  set.measures_drift = true;
  validation_sets.push_back(set);
  if (config.validation.adjacent_trigger.empty()) return;
  set.kind = "adjacent_trigger";
  set.trigger = config.validation.adjacent_trigger;
  validation_sets.push_back(set);
}

std::vector<ValidationSet> TrialSetup::all_sets() const {
  std::vector<ValidationSet> sets = validation_sets;
  if (!test_set.samples.empty()) sets.push_back(test_set);
  return sets;
}

std::vector<std::string> TrialSetup::preview_prompts() const {
  if (!config.sample.prompts.empty()) return config.sample.prompts;
  const ConceptTemplates templates(config);
  std::vector<std::string> texts;
  for (const ValidationSet& set : validation_sets) {
    if (set.kind != "heldout") continue;
    for (const std::size_t sample : set.samples) {
      if (static_cast<std::int64_t>(texts.size()) < config.sample.heldout_prompts)
        texts.push_back(templates.of(shared.dataset.dataset_of(sample)).plain(shared.dataset.caption(sample)));
    }
  }
  return texts;
}

std::map<std::string, std::string> TrialSetup::options() const {
  TrainConfig copy = config;
  OptionTable table;
  declare(table, copy);
  std::map<std::string, std::string> texts;
  for (const std::string& name : table.names()) texts[name] = table.text_of(name);
  return texts;
}

std::string TrialSetup::echo() const {
  TrainConfig copy = config;
  OptionTable table;
  declare(table, copy);
  return table.echo(/*comments=*/true);
}

std::string pack_key(const TrainConfig& config) {
  // What a trial decides for its own rows of a batch, its own arena and its own folder.
  static const std::set<std::string> own{"output",
                                         "train.seed",
                                         "train.max_train_steps",
                                         "train.max_tflops",
                                         "train.num_train_epochs",
                                         "train.max_grad_norm",
                                         "train.max_grad_value",
                                         "train.checkpointing_steps",
                                         "train.checkpoints_total_limit",
                                         "train.resume_from_checkpoint",
                                         "train.log_steps",
                                         "data.seed",
                                         "data.subset",
                                         "data.subset_seed",
                                         "data.weights",
                                         "data.latent_sampling",
                                         "caption.dropout",
                                         "validation.steps"};
  TrainConfig copy = config;
  OptionTable table;
  declare(table, copy);
  std::string key;
  for (const std::string& name : table.names()) {
    const bool of_schedule = name == "noise.rescale_betas_zero_snr";
    const bool of_trial = own.count(name) > 0 || name.rfind("hypernetwork.", 0) == 0 || name.rfind("lora.", 0) == 0 ||
                          name.rfind("optim.", 0) == 0 || name.rfind("sample.", 0) == 0 ||
                          name.rfind("loss.", 0) == 0 || name.rfind("stop.", 0) == 0 ||
                          (name.rfind("noise.", 0) == 0 && !of_schedule);
    if (!of_trial) key += name + " = " + table.text_of(name) + "\n";
  }
  return key;
}

}  // namespace ldmtune::train
