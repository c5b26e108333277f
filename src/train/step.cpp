#include "train/step.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "comm/canonical_tree.h"
#include "optim/clipping.h"
#include "train/collectives.h"
#include "train/packed_hooks.h"

namespace ldmtune::train {
namespace {

template <class Member>
at::Tensor rows_of_all(const std::vector<MicroBatch>& batches, Member member) {
  if (batches.size() == 1) return std::invoke(member, batches.front());
  std::vector<at::Tensor> parts;
  for (const MicroBatch& batch : batches) parts.push_back(std::invoke(member, batch));
  return at::cat(parts);
}

std::vector<TrialRows> training_hooks(const std::vector<Trial*>& trials, const std::vector<MicroBatch>& batches) {
  std::vector<TrialRows> rows;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const std::int64_t end = begin + batches[i].latents.size(0);
    adapt::ForwardContext context;
    context.training = true;
    context.seed = trials[i]->seed;
    context.draws = batches[i].draws;
    rows.push_back({begin, end, trials[i]->adapter->hooks(*trials[i]->arena, std::move(context))});
    begin = end;
  }
  return rows;
}

}  // namespace

at::Tensor gather_slices(comm::Communicator& comm, const at::Tensor& flat) {
  at::Tensor whole = flat.detach().clone();
  all_gather(comm, whole);
  return whole;
}

Step::Step(const model::BaseModel& base, const pipeline::PromptEncoder& prompts, std::int64_t global_batch_size,
           std::int64_t micro_batch_size, comm::Communicator& comm, std::size_t pack_width)
    : base_(base),
      prompts_(prompts),
      global_batch_size_(global_batch_size),
      micro_batch_size_(micro_batch_size),
      leaves_(data::checked_leaves(global_batch_size, micro_batch_size, comm.size())),
      comm_(comm),
      full_rows_(static_cast<std::int64_t>(pack_width) * micro_batch_size) {}

std::vector<TrialStep> Step::run(const std::vector<Trial*>& trials, StepObserver* observer) {
  std::vector<comm::LeafAccumulator<at::Tensor>> sums;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    sums.emplace_back([this](at::Tensor& a, const at::Tensor& b) {
      a.add_(b);
      free_buffers_.push_back(b);
    });
  }
  for (const Trial* trial : trials) offer_buffer(trial->arena->gradients());
  std::vector<double> losses;
  const std::int64_t leaves = leaves_ * trials.front()->leaves_per_micro_batch();
  const data::LeafRange mine = data::leaves_of_rank(leaves, comm_.rank(), comm_.size());
  for (std::int64_t leaf = mine.begin; leaf < mine.end; ++leaf) {
    LeafResult result = run_leaf(trials, leaf, observer);
    losses.insert(losses.end(), result.losses.begin(), result.losses.end());
    for (std::size_t i = 0; i < trials.size(); ++i) sums[i].push(std::move(result.gradients[i]));
  }

  const std::vector<double> reduced = reduce_losses(losses, trials.size());
  std::vector<TrialStep> steps;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    at::Tensor gradient = sums[i].finish();
    reduce_scatter(comm_, gradient);
    if (trials[i]->scaler) gradient.mul_(1 / trials[i]->scaler->scale);  // a power of two: rounds nothing
    trials[i]->arena->use_gradients(gradient);
    if (observer) observer->on_gradient(i, [&] { return gather_slices(comm_, gradient); });
    steps.push_back(update(*trials[i], reduced[i]));
    offer_buffer(gradient);
  }
  return steps;
}

Step::LeafResult Step::run_leaf(const std::vector<Trial*>& trials, std::int64_t leaf, StepObserver* observer) {
  LeafResult result;
  std::vector<MicroBatch> batches;
  for (Trial* trial : trials) {
    batches.push_back(trial->next_micro_batch(leaf, leaves_));
    result.gradients.push_back(take_buffer(*trial));
    trial->arena->use_gradients(result.gradients.back());
  }

  const Prediction prediction = predict(trials, batches);  // rows (sum of b, C, h, w)
  const std::vector<at::Tensor> rows = prediction.rows.split(micro_batch_size_);
  at::Tensor objective;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const at::Tensor loss = diffusion::per_sample_loss(rows[i], batches[i].target, batches[i].terms);  // (b)
    const at::Tensor share = (loss * batches[i].weight).sum() / static_cast<double>(global_batch_size_);
    result.losses.push_back(share.item<double>());
    const at::Tensor scaled = trials[i]->scaler ? share * trials[i]->scaler->scale : share;
    objective = objective.defined() ? objective + scaled : scaled;
    if (observer) observer->on_leaf({leaf, i, batches[i], rows[i].detach(), loss.detach()});
  }
  objective.backward();
  return result;
}

template <class Member>
at::Tensor Step::full_width(const std::vector<MicroBatch>& batches, Member member) const {
  const at::Tensor rows = rows_of_all(batches, member);
  const std::int64_t missing = full_rows_ - rows.size(0);
  if (missing == 0) return rows;
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = missing;
  return at::cat({rows, rows.detach().slice(0, 0, 1).expand(shape)});
}

model::AddedConditioning Step::added_of_all(const std::vector<MicroBatch>& batches) const {
  if (!base_.unet->takes_added_conditioning()) return {};
  return {full_width(batches, [](const MicroBatch& batch) { return batch.added.pooled; }),
          full_width(batches, [](const MicroBatch& batch) { return batch.added.time_ids; })};
}

Step::Prediction Step::predict(const std::vector<Trial*>& trials, std::vector<MicroBatch>& batches) const {
  std::vector<TrialRows> rows = training_hooks(trials, batches);
  for (std::size_t i = 0; i < trials.size(); ++i) {
    if (!trials[i]->adapter->trains_text_encoder()) continue;
    const auto text = prompts_.condition_ids(batches[i].input_ids, rows[i].hooks.get(), batches[i].token_weights);
    batches[i].context = text.context.to(at::kFloat);
    if (text.pooled.defined()) batches[i].added.pooled = text.pooled.to(at::kFloat);
  }
  auto hooks = pack_hooks(std::move(rows), full_rows_);
  const at::ScalarType dtype = base_.unet->parameters().begin()->second.scalar_type();
  const at::Tensor prediction =
      base_.unet->forward(full_width(batches, &MicroBatch::noisy).to(dtype), full_width(batches, &MicroBatch::timestep),
                          full_width(batches, &MicroBatch::context).to(dtype), hooks.get(), added_of_all(batches));
  const std::int64_t own = static_cast<std::int64_t>(trials.size()) * micro_batch_size_;
  return {prediction.slice(0, 0, own).to(at::kFloat), std::move(hooks)};
}

std::vector<double> Step::reduce_losses(const std::vector<double>& local, std::size_t trials) const {
  const std::vector<double> all =
      comm_.all_gather(std::span<const double>(local));  // (leaves, trials), ranks in order of leaves
  std::vector<double> losses;
  for (std::size_t i = 0; i < trials; ++i) {
    std::vector<double> of_trial;
    for (std::size_t j = i; j < all.size(); j += trials) of_trial.push_back(all[j]);
    losses.push_back(comm::canonical_sum(of_trial));
  }
  return losses;
}

double Step::gradient_norm(const Trial& trial) const {
  const std::vector<double> mine =
      optim::block_square_sums(trial.arena->gradients(), trial.optimizer->begin(), trial.optimizer->end());
  return std::sqrt(comm::canonical_sum(all_gather_by_slice(comm_, mine)));
}

TrialStep Step::update(Trial& trial, double loss) {
  TrialStep result;
  result.loss = loss;
  result.grad_norm = gradient_norm(trial);
  for (const auto& [group, schedule] : trial.learning_rates) result.learning_rates[group] = schedule.at(trial.step);
  result.finite = std::isfinite(loss) && std::isfinite(result.grad_norm);
  if (trial.scaler) {
    trial.scaler->book(result.finite);
    result.skipped = !result.finite && !trial.scaler->is_exhausted();
    if (result.skipped) {
      ++trial.step;
      result.finite = true;
      return result;
    }
  }
  if (!result.finite) return result;

  const at::NoGradGuard no_grad;
  at::Tensor mine = trial.arena->gradients().slice(0, trial.optimizer->begin(), trial.optimizer->end());
  const double max_value = trial.max_grad_value->at(trial.step);
  if (max_value > 0) mine.clamp_(-max_value, max_value);
  result.clip_coefficient = optim::clip_coefficient(result.grad_norm, trial.max_grad_norm->at(trial.step));
  if (result.clip_coefficient < 1) mine.mul_(result.clip_coefficient);

  ++trial.step;
  trial.optimizer->step(*trial.arena, result.learning_rates, trial.applied_updates());
  at::Tensor parameters = trial.arena->parameters();
  all_gather(comm_, parameters);
  trial.arena->refresh_copies();
  if (trial.ema) trial.ema->update(*trial.arena, trial.applied_updates());
  return result;
}

void Step::offer_buffer(const at::Tensor& buffer) {
  const bool known = std::any_of(free_buffers_.begin(), free_buffers_.end(),
                                 [&](const at::Tensor& free) { return free.is_same(buffer); });
  if (!known) free_buffers_.push_back(buffer);
}

at::Tensor Step::take_buffer(const Trial& trial) {
  const auto found = std::find_if(free_buffers_.begin(), free_buffers_.end(),
                                  [&](const at::Tensor& buffer) { return buffer.numel() == trial.arena->size(); });
  if (found == free_buffers_.end()) return at::zeros_like(trial.arena->parameters());
  at::Tensor buffer = std::move(*found);
  free_buffers_.erase(found);
  return buffer.zero_();
}

}  // namespace ldmtune::train
