#include "train/trial.h"

#include "adapt/dreambooth.h"
#include "adapt/hypernetwork.h"
#include "adapt/lora.h"
#include "adapt/textual_inversion.h"
#include "comm/communicator.h"
#include "core/error.h"
#include "optim/adamw.h"
#include "optim/lion.h"
#include "optim/prodigy.h"
#include "train/collectives.h"

namespace ldmtune::train {
namespace {

std::unique_ptr<optim::Optimizer> make_optimizer(const OptimConfig& o, const optim::Arena& arena,
                                                 const comm::Range& slice, comm::Communicator& comm) {
  if (o.optimizer == "adamw") {
    return std::make_unique<optim::AdamW>(
        arena, optim::AdamWOptions{o.adam_beta1, o.adam_beta2, o.adam_epsilon, o.adam_weight_decay}, slice.begin,
        slice.end);
  }
  if (o.optimizer == "lion") {
    return std::make_unique<optim::Lion>(arena, optim::LionOptions{o.lion_beta1, o.lion_beta2, o.adam_weight_decay},
                                         slice.begin, slice.end);
  }
  if (o.optimizer == "prodigy") {
    optim::ProdigyOptions options;
    options.beta1 = o.adam_beta1, options.beta2 = o.adam_beta2, options.beta3 = o.prodigy_beta3;
    options.epsilon = o.adam_epsilon, options.weight_decay = o.adam_weight_decay, options.d_coef = o.prodigy_d_coef;
    options.use_bias_correction = o.prodigy_use_bias_correction;
    options.safeguard_warmup = o.prodigy_safeguard_warmup;
    return std::make_unique<optim::Prodigy>(arena, options, slice.begin, slice.end, global_sum(comm));
  }
  fail_input("option optim.optimizer: expected adamw, lion or prodigy, found '", o.optimizer, "'");
}

at::ScalarType compute_type(const std::string& mixed_precision) {
  if (mixed_precision == "no") return at::kFloat;
  return mixed_precision == "fp16" ? at::kHalf : at::kBFloat16;
}

/// The learning rate of a parameter group as A1111's syntax. Methods with several groups choose here.
const std::string& learning_rate_of(const TrainConfig& config, const std::string& group) {
  const std::string& of_text_encoder =
      config.method == "lora" ? config.lora.text_encoder_learning_rate : config.dreambooth.text_encoder_learning_rate;
  const bool has_groups = config.method == "lora" || config.method == "dreambooth";
  return has_groups && group != "unet" && !of_text_encoder.empty() ? of_text_encoder : config.optim.learning_rate;
}

}  // namespace

std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base) {
  if (config.method == "hypernetwork") {
    return std::make_unique<adapt::Hypernetwork>(
        adapt::HypernetworkSpec::from_config(config.hypernetwork, base.unet->context_widths()));
  }
  if (config.method == "lora") {
    return std::make_unique<adapt::Lora>(adapt::Lora::from_config(config.lora, adapt::lora_sites(base)));
  }
  if (config.method == "textual_inversion") {
    return std::make_unique<adapt::TextualInversion>(adapt::make_placeholders(config.textual_inversion, base));
  }
  if (config.method == "dreambooth") {
    return std::make_unique<adapt::Dreambooth>(
        adapt::Dreambooth::from_config(config.dreambooth, config.caption.clip_skip, base));
  }
  fail_input("option method: expected hypernetwork, lora, textual_inversion or dreambooth, found '", config.method,
             "'");
}

MicroBatch Trial::next_micro_batch(std::int64_t leaf, std::int64_t micro_batches) const {
  const bool is_class = class_source && leaf % 2 == 1;
  const auto m = static_cast<std::uint64_t>(step * micro_batches + leaf / leaves_per_micro_batch());
  return (is_class ? class_source : source)->make((is_class ? class_stream : stream)->micro_batch(m), seed);
}

namespace {

std::unique_ptr<data::SampleStream> make_stream(const TrainConfig& config, const BatchSource& source,
                                                std::uint32_t dataset) {
  return std::make_unique<data::SampleStream>(source.stream_rows(), config.data_options.seed, config.train.seed,
                                              dataset, static_cast<std::uint32_t>(config.train.micro_batch_size));
}

}  // namespace

void attach_optimizer(Trial& trial, const TrainConfig& config, comm::Communicator& comm) {
  const comm::Range slice = comm::owned_slice(trial.arena->size(), comm.rank(), comm.size());
  trial.optimizer = make_optimizer(config.optim, *trial.arena, slice, comm);
  if (!config.optim.use_ema) return;
  trial.ema = std::make_unique<optim::Ema>(*trial.arena, config.optim.ema_decay, slice.begin, slice.end);
}

Trial make_trial(const TrainConfig& config, const model::BaseModel& base, const BatchSource& source,
                 std::int64_t max_train_steps, comm::Communicator& comm, at::Device device,
                 const BatchSource* class_source) {
  Trial trial;
  trial.seed = config.train.seed;
  trial.source = &source;
  trial.adapter = make_adapter(config, base);
  trial.arena = std::make_unique<optim::Arena>(trial.adapter->parameters(), device);
  trial.adapter->initialize(*trial.arena, trial.seed);
  if (trial.adapter->changes_base()) adapt::cast_networks(base, compute_type(config.train.mixed_precision));
  trial.adapter->bind(*trial.arena);
  attach_optimizer(trial, config, comm);
  if (config.train.mixed_precision == "fp16") trial.scaler.emplace();

  for (const optim::ArenaEntry& entry : trial.arena->entries()) {
    const std::string& group = entry.spec.group;
    if (trial.learning_rates.count(group) > 0) continue;
    if (config.optim.optimizer == "prodigy" && learning_rate_of(config, group) != config.optim.learning_rate) {
      fail_input("option optim.optimizer: prodigy needs one learning rate for all that trains, found ",
                 config.optim.learning_rate, " and ", learning_rate_of(config, group), " (", group, ")");
    }
    trial.learning_rates.emplace(group,
                                 optim::LearningRateSchedule(learning_rate_of(config, group), config.optim.lr_scheduler,
                                                             config.optim.lr_warmup_steps, max_train_steps));
  }
  trial.max_grad_norm = std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_norm, "train.max_grad_norm");
  trial.max_grad_value =
      std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_value, "train.max_grad_value");
  trial.stream = make_stream(config, source, /*dataset=*/0);
  trial.class_source = class_source;
  if (class_source) trial.class_stream = make_stream(config, *class_source, kClassDataset);
  return trial;
}

}  // namespace ldmtune::train
