#include "train/trial.h"

#include "adapt/hypernetwork.h"
#include "comm/communicator.h"
#include "core/error.h"

namespace ldmtune::train {

std::unique_ptr<adapt::Adapter> make_adapter(const TrainConfig& config, const model::BaseModel& base) {
  if (config.method == "hypernetwork") {
    return std::make_unique<adapt::Hypernetwork>(
        adapt::HypernetworkSpec::from_config(config.hypernetwork, base.unet->context_widths()));
  }
  fail_input("option method: expected hypernetwork, found '", config.method, "'");
}

Trial make_trial(const TrainConfig& config, const model::BaseModel& base,
                 const std::vector<std::uint32_t>& bucket_sizes, std::int64_t max_train_steps, int rank, int ranks,
                 at::Device device) {
  Trial trial;
  trial.seed = config.train.seed;
  trial.adapter = make_adapter(config, base);
  trial.arena = std::make_unique<optim::Arena>(trial.adapter->parameters(), device);
  trial.adapter->initialize(*trial.arena, trial.seed);

  const auto& o = config.optim;
  if (o.optimizer != "adamw") fail_input("option optim.optimizer: expected adamw, found '", o.optimizer, "'");
  const comm::Range slice = comm::owned_slice(trial.arena->size(), rank, ranks);
  trial.optimizer = std::make_unique<optim::AdamW>(
      *trial.arena, optim::AdamWOptions{o.adam_beta1, o.adam_beta2, o.adam_epsilon, o.adam_weight_decay}, slice.begin,
      slice.end);
  trial.learning_rate = std::make_unique<optim::LearningRateSchedule>(o.learning_rate, o.lr_scheduler,
                                                                      o.lr_warmup_steps, max_train_steps);
  trial.max_grad_norm = std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_norm, "train.max_grad_norm");
  trial.max_grad_value =
      std::make_unique<optim::PiecewiseSchedule>(config.train.max_grad_value, "train.max_grad_value");
  trial.stream = std::make_unique<data::SampleStream>(bucket_sizes, config.data_options.seed, trial.seed, /*dataset=*/0,
                                                      static_cast<std::uint32_t>(config.train.micro_batch_size));
  return trial;
}

}  // namespace ldmtune::train
