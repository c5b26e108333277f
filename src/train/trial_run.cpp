#include "train/trial_run.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/progress.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "train/ema_weights.h"
#include "train/placeholder_check.h"
#include "train/result.h"
#include "train/run.h"
#include "train/start.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

std::string adapter_name(const TrainConfig& config) {
  if (!config.hypernetwork.name.empty()) return config.hypernetwork.name;
  return fs::absolute(config.output).lexically_normal().filename().string();
}

std::string rounded(double value, const char* format = "%.4f") {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Adds the time from its construction to its destruction.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), begin_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace

TrialRun::TrialRun(const TrainConfig& config, SharedSetup& shared, comm::Communicator& comm, Milestones milestones)
    : setup_(config, shared, comm.size()),
      comm_(comm),
      milestones_(std::move(milestones)),
      is_root_(comm.rank() == 0),
      trial_(make_trial(setup_.config, shared.base, setup_.source, setup_.max_train_steps, comm, shared.device,
                        setup_.class_source ? &*setup_.class_source : nullptr)),
      stopping_(setup_.config.stop) {
  if (const auto* words = dynamic_cast<const adapt::TextualInversion*>(trial_.adapter.get())) {
    check_captions(setup_, *words);
  }
  preview_.emplace(setup_.shared.base, setup_.shared.prompts, setup_.config.sample, setup_.preview_prompts(), comm_);
  resume_or_start();
}

fs::path TrialRun::checkpoint_to_resume() const {
  const std::string& resume = setup_.config.train.resume_from_checkpoint;
  if (resume.empty()) {
    if (holds_run(setup_.config.output)) {
      fail_input("option output: ", setup_.config.output.string(),
                 " holds a run; choose another folder, or --train.resume_from_checkpoint latest to go on with it");
    }
    return {};
  }
  return resume == "latest" ? latest_checkpoint(setup_.config.output) : fs::path(resume);
}

void TrialRun::resume_or_start() {
  resumed_from_ = checkpoint_to_resume();
  state_.base_sha256 = setup_.shared.base.sha256;
  state_.base_name = fs::absolute(setup_.config.base).lexically_normal().filename().string();
  state_.dataset_sha256 = setup_.shared.training_data_sha256();
  state_.adapter_name = adapter_name(setup_.config);
  state_.config = setup_.options();
  if (!resumed_from_.empty()) {
    const CheckpointState old = read_checkpoint_state(resumed_from_);
    check_same_run(old, state_, resumed_from_);
    remember_untouched_base();
    load_checkpoint(resumed_from_, trial_);
    state_.seconds = old.seconds;
    state_.base_heldout_loss = old.base_heldout_loss;
    state_.best_heldout_loss = old.best_heldout_loss;
    state_.best_step = old.best_step;
    state_.init_sha256 = old.init_sha256;
    stopping_.restore(old.stop_values);
  }
  if (resumed_from_.empty() && !init_from(setup_.config).empty()) {
    remember_untouched_base();
    state_.init_sha256 = start_from_file(setup_.config, setup_.shared.base, trial_, comm_);
  }
  first_step_ = trial_.step;
}

void TrialRun::open_root_files() {
  const fs::path& folder = setup_.config.output;
  fs::create_directories(folder);
  lock_ = std::make_unique<RunLock>(folder);
  store::write_text(folder / "config.cfg", setup_.echo());
  const std::int64_t keep = resumed_from_.empty() ? -1 : first_step_;
  // Killed between the last checkpoint and result.json: the last measurement is made again.
  const std::int64_t keep_measured = is_finished() || is_paused() ? keep - 1 : keep;
  fs::remove(folder / "result.json");
  const auto open = [&](const char* file, const std::vector<std::string>& columns, std::int64_t keep_up_to) {
    return std::make_unique<CsvLog>(folder / file, columns, keep_up_to);
  };
  metrics_ = open("metrics.csv", {"step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "seconds"}, keep);
  validation_ = open("validation.csv", validation_columns(), keep_measured);
  if (setup_.config.stop.rule != "none") stopping_log_ = open("stopping.csv", {"step", "loss", "ratio"}, keep);
  image_losses_ =
      open("validation_images.csv", {"step", "kind", "sample_id", "source", "loss", "drift"}, keep_measured);
  write_run_description(folder, setup_, state_, comm_);
}

void TrialRun::start() {
  const fs::path& folder = setup_.config.output;
  comm_.barrier();  // every rank has passed its checks before anything is written
  pipeline::run_together(comm_, [&] {
    if (is_root_) open_root_files();
  });
  log_ = std::make_unique<FileLog>(folder / (is_root_ ? "log.txt" : "log.rank" + std::to_string(comm_.rank()) + ".txt"),
                                   comm_.rank());
  LDMTUNE_LOG(info) << (resumed_from_.empty() ? "Training " : "Resuming " + resumed_from_.string() + ", ")
                    << setup_.config.method << " of " << trial_.arena->trainable_elements() << " parameters on "
                    << setup_.source.samples() << " samples, " << setup_.max_train_steps << " updates of "
                    << setup_.config.train.global_batch_size << " samples on " << comm_.size() << " rank(s), "
                    << setup_.shared.device << " -> " << folder.string();
  if (!setup_.config.train.trace.empty()) {
    trace_ = std::make_unique<Trace>(setup_.config.train.trace, trial_, first_step_, comm_);
  }
  const Stopwatch watch(state_.seconds);
  remember_untouched_base();
  measure_base();
  if (resumed_from_.empty() && stopping_.is_due(0)) watch_for_stop();
  if (is_finished() || is_paused()) measure(/*final=*/is_finished());
}

std::int64_t TrialRun::last_step() const {
  return milestones_.pauses ? std::min(setup_.max_train_steps, milestones_.steps.back()) : setup_.max_train_steps;
}

StepObserver* TrialRun::observer() { return is_traced_update(trial_.step + 1) ? trace_.get() : nullptr; }

bool TrialRun::is_traced_update(std::int64_t step) const {
  return trace_ && step - first_step_ <= setup_.config.train.trace_steps;
}

bool TrialRun::is_due(std::int64_t every) const { return is_finished() || (every > 0 && trial_.step % every == 0); }

void TrialRun::after_update(const TrialStep& result, double seconds) {
  update_seconds_ += seconds;
  state_.seconds += seconds;
  if (!result.finite) {
    save();
    fail("update ", trial_.step + 1, ": loss ", result.loss, ", gradient norm ", result.grad_norm,
         ": not finite. Nothing was updated; the state after update ", trial_.step, " is in ",
         checkpoint_folder(setup_.config.output, trial_.step).string(),
         ". A lower optim.learning_rate or train.max_grad_norm may help.");
  }
  if (stopping_.is_due(trial_.step)) {
    const Stopwatch watch(state_.seconds);
    watch_for_stop();
  }
  if (is_traced_update(trial_.step)) trace_->on_step_end(trial_.step, trial_, result);
  last_loss_ = result.loss;
  if (result.skipped) {
    LDMTUNE_LOG(info) << "update " << trial_.step << ": the fp16 gradient overflowed and was left out; loss scale now "
                      << trial_.scaler->scale;
  }
  if (!is_root_ || (trial_.step % setup_.config.train.log_steps != 0 && !is_finished())) return;
  const auto batch = static_cast<double>(setup_.config.train.global_batch_size);
  const double epoch = static_cast<double>(trial_.step) * batch / setup_.source.samples_per_pass();
  metrics_->append({std::to_string(trial_.step), rounded(epoch), format_number(result.loss),
                    format_number(result.learning_rates.rbegin()->second), format_number(result.grad_norm),
                    rounded(batch / seconds, "%.3f"), rounded(state_.seconds, "%.3f")});
}

void TrialRun::after_step(bool stop) {
  const Stopwatch watch(state_.seconds);
  if (is_due(setup_.config.validation.steps) || milestones_.holds(trial_.step)) measure(is_finished());
  if (setup_.config.sample.steps > 0 && is_due(setup_.config.sample.steps)) {
    const EmaWeights averaged(trial_, whole_average(trial_, comm_));
    preview_->write(setup_.config.output, trial_, trial_.step);
  }
  if (stop || is_paused() || is_due(setup_.config.train.checkpointing_steps)) save();
  if (!stop || is_finished() || is_paused()) return;
  if (trace_) trace_->close();
  LDMTUNE_LOG(info) << "Stopped after update " << trial_.step << " with checkpoint "
                    << checkpoint_folder(setup_.config.output, trial_.step).string()
                    << "; go on with --train.resume_from_checkpoint latest";
}

std::string TrialRun::progress_note() const {
  const auto batch = static_cast<double>(setup_.config.train.global_batch_size);
  const double rate = batch * static_cast<double>(trial_.step - first_step_) / update_seconds_;
  return "loss " + rounded(last_loss_) + ", " + rounded(rate, "%.1f") + " samples/s";
}

void TrialRun::renew_lock() {
  if (!lock_ || lock_->beat()) return;
  LDMTUNE_LOG(error) << setup_.config.output.string()
                     << " was taken over by another run (its lock.json says which); this one ends";
  comm_.abort(static_cast<int>(ExitCode::failed));
}

void TrialRun::save() {
  state_.step = trial_.step;
  state_.stop_values = stopping_.values();
  write_checkpoint(setup_.config.output, trial_, state_, setup_.config.train.checkpoints_total_limit, comm_);
}

void TrialRun::remember_untouched_base() {
  if (!trial_.adapter->changes_base()) return;
  for (const ValidationSet& set : setup_.all_sets()) setup_.shared.base_measurement(set);
  if (setup_.config.sample.steps > 0) preview_->draw_base();
}

void TrialRun::measure_base() {
  for (const ValidationSet& set : setup_.all_sets()) {
    base_losses_[set.kind] = setup_.shared.base_measurement(set).loss;
    if (resumed_from_.empty()) append_image_losses(set, base_losses_[set.kind], 0);
  }
  last_losses_ = base_losses_;
  if (!resumed_from_.empty()) return;
  if (is_root_) validation_->append(validation_row(0, base_losses_));
  state_.base_heldout_loss = base_losses_["heldout"].mean;
  state_.best_heldout_loss = std::numeric_limits<double>::infinity();
}

void TrialRun::measure(bool final) {
  const EmaWeights averaged(trial_, whole_average(trial_, comm_));
  const auto hooks = [this] { return trial_.adapter->hooks(*trial_.arena, {}); };
  for (const ValidationSet& set : final ? setup_.all_sets() : setup_.validation_sets) {
    last_losses_[set.kind] = setup_.shared.validator.evaluate(
        set, hooks,
        {.in_text_encoder = trial_.adapter->trains_text_encoder(),
         .base = set.measures_drift ? &setup_.shared.base_measurement(set).predictions : nullptr});
    if (final) append_image_losses(set, last_losses_[set.kind], trial_.step);
  }
  if (is_root_) validation_->append(validation_row(trial_.step, last_losses_));
  const double heldout = last_losses_["heldout"].mean;
  if (!last_losses_["heldout"].by_image.empty() && heldout < state_.best_heldout_loss) {
    state_.best_heldout_loss = heldout;
    state_.best_step = trial_.step;
  }
}

void TrialRun::watch_for_stop() {
  const EmaWeights averaged(trial_, whole_average(trial_, comm_));
  const auto hooks = [this] { return trial_.adapter->hooks(*trial_.arena, {}); };
  const ValidationLoss loss = setup_.shared.validator.evaluate(
      setup_.stop_set, hooks, {.in_text_encoder = trial_.adapter->trains_text_encoder()});
  stopping_.add({trial_.step, loss.mean});
  const std::optional<double> ratio = stopping_.ratio();
  if (is_root_) {
    stopping_log_->append(
        {std::to_string(trial_.step), format_number(loss.mean), ratio ? format_number(*ratio) : std::string()});
  }
  if (!stopping_.says_stop()) return;
  LDMTUNE_LOG(info) << "Ends after update " << trial_.step << " of " << setup_.max_train_steps << ": over the last "
                    << setup_.config.stop.window << " updates the variance of the watched loss is " << rounded(*ratio)
                    << " of its variance since the start, below stop.threshold";
}

void TrialRun::append_image_losses(const ValidationSet& set, const ValidationLoss& loss, std::int64_t step) {
  if (!is_root_) return;
  for (std::size_t i = 0; i < set.samples.size(); ++i) {
    image_losses_->append({std::to_string(step), set.kind, std::to_string(set.dataset->sample_key(set.samples[i])),
                           set.dataset->source(set.samples[i]), format_number(loss.by_image[i]),
                           loss.drift_by_image.empty() ? "" : format_number(loss.drift_by_image[i])});
  }
}

void TrialRun::finish() {
  if (trace_) trace_->close();
  if (is_paused()) last_losses_.erase("test");  // measured at the end alone
  const std::size_t truncated = setup_.shared.prompts.truncated();
  if (truncated > 0) {
    LDMTUNE_LOG(warning) << truncated
                         << " caption(s) were longer than the context and were cut; see caption.max_chunks";
  }
  pipeline::run_together(comm_, [&] {
    if (!is_root_) return;
    const auto trained = static_cast<double>((trial_.step - first_step_) * setup_.config.train.global_batch_size);
    write_result(setup_, trial_, state_, is_paused() ? "paused" : "done", base_losses_, last_losses_, state_.seconds,
                 update_seconds_ > 0 ? trained / update_seconds_ : 0, comm_.size());
  });
  LDMTUNE_LOG(info) << (is_paused() ? "Paused" : "Done") << ": held-out loss " << rounded(base_losses_["heldout"].mean)
                    << " (base) -> " << rounded(last_losses_["heldout"].mean) << " after " << trial_.step
                    << " updates in " << format_duration(state_.seconds);
}

}  // namespace ldmtune::train
