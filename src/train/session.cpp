#include "train/session.h"

#include <c10/core/DeviceGuard.h>

#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "train/gradient_world.h"
#include "train/result.h"
#include "train/run.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

std::vector<Trial> make_trials(Setup& setup, comm::Communicator& comm) {
  std::vector<Trial> trials;
  trials.push_back(make_trial(setup.config, setup.base, setup.source.bucket_sizes(), setup.max_train_steps, comm.rank(),
                              comm.size(), setup.device));
  return trials;
}

std::string adapter_name(const TrainConfig& config) {
  if (!config.hypernetwork.name.empty()) return config.hypernetwork.name;
  return fs::absolute(config.output).lexically_normal().filename().string();
}

std::string rounded(double value, const char* format = "%.4f") {
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

ExitCode run(const TrainConfig& config, comm::Communicator& comm) {
  Setup setup(config, comm);
  const c10::DeviceGuard current(setup.device);
  const auto gpu_world = gradient_world(setup.device, comm);
  Session session(setup, gpu_world ? *gpu_world : comm);
  return session.run();
}

Session::Session(Setup& setup, comm::Communicator& comm)
    : setup_(setup),
      comm_(comm),
      is_root_(comm.rank() == 0),
      trials_(make_trials(setup, comm)),
      step_(setup.base, setup.source, setup.config.train.global_batch_size, setup.config.train.micro_batch_size, comm),
      started_(std::chrono::steady_clock::now()) {
  resume_or_start();
  open_run_folder();
  if (!setup_.config.train.trace.empty()) {
    trace_ = std::make_unique<Trace>(setup_.config.train.trace, trials_.front(), first_step_, comm_);
  }
  preview_.emplace(setup_.base, setup_.prompts, setup_.config.sample, setup_.preview_prompts(), comm_);
}

fs::path Session::checkpoint_to_resume() const {
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

void Session::resume_or_start() {
  resumed_from_ = checkpoint_to_resume();
  CheckpointState now;
  now.base_sha256 = setup_.base.sha256;
  now.base_name = fs::absolute(setup_.config.base).lexically_normal().filename().string();
  now.dataset_sha256 = setup_.dataset.sha256();
  now.adapter_name = adapter_name(setup_.config);
  now.config = setup_.options();
  if (!resumed_from_.empty()) {
    const CheckpointState old = read_checkpoint_state(resumed_from_);
    check_same_run(old, now, resumed_from_);
    load_checkpoint(resumed_from_, trials_.front());
    now.step = old.step;
    now.seconds = old.seconds;
    now.base_heldout_loss = old.base_heldout_loss;
    now.best_heldout_loss = old.best_heldout_loss;
    now.best_step = old.best_step;
  }
  state_ = now;
  first_step_ = state_.step;
}

void Session::open_root_files() {
  const fs::path& folder = setup_.config.output;
  fs::create_directories(folder);
  lock_ = std::make_unique<RunLock>(folder);
  store::write_text(folder / "config.cfg", setup_.echo());
  const std::int64_t keep = resumed_from_.empty() ? -1 : state_.step;
  // Killed between the last checkpoint and result.json: the last measurement is made again.
  const std::int64_t keep_measured = state_.step == setup_.max_train_steps ? keep - 1 : keep;
  fs::remove(folder / "result.json");
  const auto open = [&](const char* file, std::vector<std::string> columns, std::int64_t keep_up_to) {
    return std::make_unique<CsvLog>(folder / file, columns, keep_up_to);
  };
  metrics_ = open("metrics.csv", {"step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "seconds"}, keep);
  validation_ = open(
      "validation.csv",
      {"step", "concept_train", "concept_heldout", "adjacent", "heldout_q1", "heldout_q2", "heldout_q3", "heldout_q4"},
      keep_measured);
  image_losses_ = open("validation_images.csv", {"step", "kind", "sample_id", "source", "loss"}, keep_measured);
  write_run_description(folder, setup_, comm_);
}

void Session::open_run_folder() {
  const fs::path& folder = setup_.config.output;
  comm_.barrier();  // every rank has passed its checks before anything is written
  pipeline::run_together(comm_, [&] {
    if (is_root_) open_root_files();
  });
  log_ = std::make_unique<FileLog>(folder / (is_root_ ? "log.txt" : "log.rank" + std::to_string(comm_.rank()) + ".txt"),
                                   comm_.rank());
  LDMTUNE_LOG(info) << (resumed_from_.empty() ? "Training " : "Resuming " + resumed_from_.string() + ", ")
                    << setup_.config.method << " of " << trials_.front().arena->trainable_elements()
                    << " parameters on " << setup_.source.samples() << " samples, " << setup_.max_train_steps
                    << " updates of " << setup_.config.train.global_batch_size << " samples on " << comm_.size()
                    << " rank(s), " << setup_.device << " -> " << folder.string();
}

double Session::seconds() const {
  return state_.seconds + std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

bool Session::is_due(std::int64_t every, std::int64_t step) const {
  return step == setup_.max_train_steps || (every > 0 && step % every == 0);
}

ExitCode Session::run() {
  // Not earlier: ranks that wait for one that failed its checks must end at mpirun's SIGTERM.
  signals_.emplace();
  measure_base();
  if (first_step_ == setup_.max_train_steps) measure(first_step_, /*final=*/true);
  ProgressBar bar("train", setup_.max_train_steps, "updates", is_root_);
  bar.start_from(first_step_);
  for (std::int64_t step = first_step_ + 1; step <= setup_.max_train_steps; ++step) {
    update(step, bar);
    if (is_due(setup_.config.validation.steps, step)) measure(step, step == setup_.max_train_steps);
    if (setup_.config.sample.steps > 0 && is_due(setup_.config.sample.steps, step)) {
      preview_->write(setup_.config.output, trials_.front(), step);
    }
    const bool stop = should_stop(step) && step < setup_.max_train_steps;
    if (stop || is_due(setup_.config.train.checkpointing_steps, step)) save(step);
    if (stop) return interrupted(step);
    if (lock_) lock_->beat();
  }
  bar.finish();
  finish();
  return ExitCode::done;
}

void Session::update(std::int64_t step, ProgressBar& bar) {
  const auto begin = std::chrono::steady_clock::now();
  const bool traced = trace_ && step - first_step_ <= setup_.config.train.trace_steps;
  const TrialStep result = step_.run(trials_, step, traced ? trace_.get() : nullptr).front();
  if (traced) trace_->on_step_end(step, trials_.front(), result);
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  step_seconds_ += elapsed;
  if (!result.finite) {
    save(step - 1);
    fail("update ", step, ": loss ", result.loss, ", gradient norm ", result.grad_norm,
         ": not finite. Nothing was updated; the state after update ", step - 1, " is in ",
         checkpoint_folder(setup_.config.output, step - 1).string(),
         ". A lower optim.learning_rate or train.max_grad_norm may help.");
  }
  if (!is_root_) return;
  const auto batch = static_cast<double>(setup_.config.train.global_batch_size);
  if (step % setup_.config.train.log_steps == 0 || step == setup_.max_train_steps) {
    const double epoch = static_cast<double>(step) * batch / static_cast<double>(setup_.source.samples());
    metrics_->append({std::to_string(step), rounded(epoch), format_number(result.loss),
                      format_number(result.learning_rate), format_number(result.grad_norm),
                      rounded(batch / elapsed, "%.3f"), rounded(seconds(), "%.3f")});
  }
  const double rate = batch * static_cast<double>(step - first_step_) / step_seconds_;
  bar.update(step, "loss " + rounded(result.loss) + ", " + rounded(rate, "%.1f") + " samples/s");
}

void Session::save(std::int64_t step) {
  state_.step = step;
  CheckpointState state = state_;
  state.seconds = seconds();
  write_checkpoint(setup_.config.output, trials_.front(), state, setup_.config.train.checkpoints_total_limit, comm_);
}

bool Session::should_stop(std::int64_t step) {
  const std::int64_t stop_after = setup_.config.train.stop_after;
  const bool enough = stop_after > 0 && step - first_step_ >= stop_after;
  return comm_.any(enough || StopSignals::received() != 0);
}

ExitCode Session::interrupted(std::int64_t step) {
  if (trace_) trace_->close();
  LDMTUNE_LOG(info) << "Stopped after update " << step << " with checkpoint "
                    << checkpoint_folder(setup_.config.output, step).string()
                    << "; go on with --train.resume_from_checkpoint latest";
  return ExitCode::interrupted;
}

void Session::measure_base() {
  std::vector<ValidationSet> sets = setup_.validation_sets;
  if (!setup_.test_set.samples.empty()) sets.push_back(setup_.test_set);
  for (const ValidationSet& set : sets) {
    const ValidationLoss loss = setup_.validator.evaluate(set, nullptr);
    base_losses_[set.kind] = loss;
    if (resumed_from_.empty()) append_image_losses(0, set, loss);
  }
  last_losses_ = base_losses_;
  if (!resumed_from_.empty()) return;
  if (is_root_) validation_->append(validation_row(0, base_losses_));
  state_.base_heldout_loss = base_losses_["heldout"].mean;
  state_.best_heldout_loss = std::numeric_limits<double>::infinity();
}

void Session::measure(std::int64_t step, bool final) {
  const auto hooks = [this] { return trials_.front().adapter->hooks(*trials_.front().arena, {}); };
  std::vector<ValidationSet> sets = setup_.validation_sets;
  if (final && !setup_.test_set.samples.empty()) sets.push_back(setup_.test_set);
  for (const ValidationSet& set : sets) {
    last_losses_[set.kind] = setup_.validator.evaluate(set, hooks);
    if (final) append_image_losses(step, set, last_losses_[set.kind]);
  }
  if (is_root_) validation_->append(validation_row(step, last_losses_));
  const double heldout = last_losses_["heldout"].mean;
  if (!last_losses_["heldout"].by_image.empty() && heldout < state_.best_heldout_loss) {
    state_.best_heldout_loss = heldout;
    state_.best_step = step;
  }
}

void Session::append_image_losses(std::int64_t step, const ValidationSet& set, const ValidationLoss& loss) {
  if (!is_root_) return;
  for (std::size_t i = 0; i < set.samples.size(); ++i) {
    image_losses_->append({std::to_string(step), set.kind,
                           std::to_string(set.dataset->record(set.samples[i]).sample_id),
                           set.dataset->source(set.samples[i]), format_number(loss.by_image[i])});
  }
}

void Session::finish() {
  if (trace_) trace_->close();
  if (setup_.prompts.truncated() > 0) {
    LDMTUNE_LOG(warning) << setup_.prompts.truncated()
                         << " caption(s) were longer than the context and were cut; see caption.max_chunks";
  }
  if (is_root_) {
    const double trained =
        static_cast<double>((setup_.max_train_steps - first_step_) * setup_.config.train.global_batch_size);
    write_result(setup_, trials_.front(), state_, base_losses_, last_losses_, seconds(),
                 step_seconds_ > 0 ? trained / step_seconds_ : 0, comm_.size());
  }
  const double base = base_losses_["heldout"].mean, now = last_losses_["heldout"].mean;
  LDMTUNE_LOG(info) << "Done: held-out loss " << rounded(base) << " (base) -> " << rounded(now) << " after "
                    << setup_.max_train_steps << " updates in " << format_duration(seconds());
  comm_.barrier();
}

}  // namespace ldmtune::train
