#include "train/trial.h"

#include "adapt/hypernetwork.h"
#include "adapt/lora.h"
#include "adapt/textual_inversion.h"
#include "comm/communicator.h"
#include "core/error.h"
#include "optim/adamw.h"

namespace ldmtune::train {
namespace {

std::unique_ptr<optim::Optimizer> make_optimizer(const OptimConfig& o, const optim::Arena& arena,
                                                 const comm::Range& slice) {
  if (o.optimizer == "adamw") {
    return std::make_unique<optim::AdamW>(
        arena, optim::AdamWOptions{o.adam_beta1, o.adam_beta2, o.adam_epsilon, o.adam_weight_decay}, slice.begin,
        slice.end);
  }
  fail_input("option optim.optimizer: expected adamw, found '", o.optimizer, "'");
}

/// The learning rate of a parameter group as A1111's syntax. Methods with several groups choose here.
const std::string& learning_rate_of(const TrainConfig& config, const std::string& /*group*/) {
  return config.optim.learning_rate;
}

}  // namespace

std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base) {
  if (config.method == "hypernetwork") {
    return std::make_unique<adapt::Hypernetwork>(
        adapt::HypernetworkSpec::from_config(config.hypernetwork, base.unet->context_widths()));
  }
  if (config.method == "lora") return std::make_unique<adapt::Lora>(adapt::Lora::from_config(config.lora, base));
  if (config.method == "textual_inversion") {
    return std::make_unique<adapt::TextualInversion>(adapt::make_placeholders(config.textual_inversion, base));
  }
  fail_input("option method: expected hypernetwork, lora or textual_inversion, found '", config.method, "'");
}

Trial make_trial(const TrainConfig& config, const model::BaseModel& base, const BatchSource& source,
                 std::int64_t max_train_steps, int rank, int ranks, at::Device device) {
  Trial trial;
  trial.seed = config.train.seed;
  trial.source = &source;
  trial.adapter = make_adapter(config, base);
  trial.arena = std::make_unique<optim::Arena>(trial.adapter->parameters(), device);
  trial.adapter->initialize(*trial.arena, trial.seed);
  trial.optimizer = make_optimizer(config.optim, *trial.arena, comm::owned_slice(trial.arena->size(), rank, ranks));

  for (const optim::ArenaEntry& entry : trial.arena->entries()) {
    const std::string& group = entry.spec.group;
    if (trial.learning_rates.count(group) > 0) continue;
    trial.learning_rates.emplace(group,
                                 optim::LearningRateSchedule(learning_rate_of(config, group), config.optim.lr_scheduler,
                                                             config.optim.lr_warmup_steps, max_train_steps));
  }
  trial.max_grad_norm = std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_norm, "train.max_grad_norm");
  trial.max_grad_value =
      std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_value, "train.max_grad_value");
  trial.stream =
      std::make_unique<data::SampleStream>(source.bucket_sizes(), config.data_options.seed, trial.seed,
                                           /*dataset=*/0, static_cast<std::uint32_t>(config.train.micro_batch_size));
  return trial;
}

}  // namespace ldmtune::train
