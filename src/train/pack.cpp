#include "train/pack.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "core/log_scope.h"
#include "core/progress.h"
#include "pipeline/agreeing_communicator.h"
#include "train/gradient_world.h"
#include "train/run.h"
#include "train/signals.h"
#include "train/step.h"
#include "train/trial_run.h"

namespace ldmtune::train {
namespace {

class Pack {
 public:
  Pack(const std::vector<TrainConfig>& configs, std::size_t width, SharedSetup& shared,
       pipeline::AgreeingCommunicator& comm, const OnTrialEnd& on_end, const Milestones& milestones)
      : configs_(configs),
        width_(width),
        shared_(shared),
        comm_(comm),
        on_end_(on_end),
        milestones_(milestones),
        step_(shared.base, shared.prompts, shared.config.train.global_batch_size, shared.config.train.micro_batch_size,
              comm, width) {}

  ExitCode run() {
    fill();
    const auto [done, total] = updates();
    ProgressBar bar("train", total, "updates", comm_.rank() == 0);
    bar.start_from(done);
    while (!members_.empty()) {
      update_all();
      const bool stop = agree_on_stop();
      for (std::size_t i = 0; i < members_.size(); ++i) {
        attempt(i, [&] { members_[i].run->after_step(stop); });
      }
      show(bar);
      leave_finished();
      if (stop && (!members_.empty() || next_ < configs_.size())) return ExitCode::interrupted;
      fill();
    }
    bar.finish();
    return ExitCode::done;
  }

 private:
  struct Member {
    std::size_t index;
    std::unique_ptr<TrialRun> run;
    bool leaves = false;  ///< failed or finished
  };

  /// Runs one trial's work; its failure, on whichever rank, is its own where somebody is told of it.
  template <class Work>
  bool guarded(std::size_t index, const Work& work) {
    const LogScope scope(configs_[index].output.string());
    try {
      comm_.work_together(work);
      return true;
    } catch (const std::exception& error) {
      if (!on_end_) throw;
      on_end_(index, &error);
      return false;
    }
  }

  template <class Work>
  void attempt(std::size_t member, const Work& work) {
    if (!members_[member].leaves && !guarded(members_[member].index, work)) members_[member].leaves = true;
  }

  /// Takes trials from the queue until the pack is full. A trial that is resumed at its end finishes here.
  void fill() {
    while (members_.size() < width_ && next_ < configs_.size()) {
      const std::size_t index = next_++;
      std::unique_ptr<TrialRun> run;
      const bool started = guarded(index, [&] {
        run = std::make_unique<TrialRun>(configs_[index], shared_, comm_, milestones_);
        // Not earlier: ranks that wait for one that failed its checks must end at mpirun's SIGTERM.
        if (!signals_) signals_ = std::make_unique<StopSignals>();
        run->start();
      });
      if (started) members_.push_back({index, std::move(run)});
      leave_finished();
    }
  }

  void update_all() {
    std::vector<Trial*> trials;
    for (Member& member : members_) trials.push_back(&member.run->trial());
    StepObserver* observer = members_.size() == 1 ? members_.front().run->observer() : nullptr;
    const auto begin = std::chrono::steady_clock::now();
    const std::vector<TrialStep> results = step_.run(trials, observer);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ++updates_of_process_;
    for (std::size_t i = 0; i < members_.size(); ++i) {
      attempt(i, [&] { members_[i].run->after_update(results[i], seconds / static_cast<double>(members_.size())); });
    }
  }

  /// True if any rank was asked to stop.
  bool agree_on_stop() {
    const std::int64_t stop_after = shared_.config.train.stop_after;
    const bool enough = stop_after > 0 && updates_of_process_ >= stop_after;
    return comm_.any(enough || StopSignals::received() != 0);
  }

  void leave_finished() {
    for (Member& member : members_) {
      if (member.leaves || !(member.run->is_finished() || member.run->is_paused())) continue;
      if (guarded(member.index, [&] { member.run->finish(); }) && on_end_) on_end_(member.index, nullptr);
      finished_updates_ += member.run->last_step();
      member.leaves = true;
    }
    std::erase_if(members_, [](const Member& member) { return member.leaves; });
  }

  /// Updates done and to do of the trials seen so far; those still in the queue count as the first one does.
  std::pair<std::int64_t, std::int64_t> updates() const {
    std::int64_t done = finished_updates_, total = finished_updates_, length = 0;
    for (const Member& member : members_) {
      done += member.run->step();
      total += length = member.run->last_step();
    }
    return {done, total + static_cast<std::int64_t>(configs_.size() - next_) * length};
  }

  void show(ProgressBar& bar) {
    for (Member& member : members_) member.run->renew_lock();
    if (members_.empty()) return;
    std::string note = members_.front().run->progress_note();
    if (members_.size() > 1) note = std::to_string(members_.size()) + " trials, first: " + note;
    bar.update(updates().first, note);
  }

  const std::vector<TrainConfig>& configs_;
  std::size_t width_;
  SharedSetup& shared_;
  pipeline::AgreeingCommunicator& comm_;
  const OnTrialEnd& on_end_;
  const Milestones& milestones_;
  Step step_;
  std::unique_ptr<StopSignals> signals_;  ///< before training a signal ends the process, and nothing is lost
  std::vector<Member> members_;
  std::size_t next_ = 0;
  std::int64_t updates_of_process_ = 0, finished_updates_ = 0;
};

/// For methods that change the base: each trial on a base loaded for it.
ExitCode run_one_by_one(const std::vector<TrainConfig>& configs, comm::Communicator& comm, const OnTrialEnd& on_end,
                        const Milestones& milestones) {
  for (std::size_t i = 0; i < configs.size(); ++i) {
    const OnTrialEnd report = [&, i](std::size_t, const std::exception* error) { on_end(i, error); };
    const ExitCode code = run_pack({configs[i]}, 1, comm, on_end ? report : OnTrialEnd(), milestones);
    if (code != ExitCode::done) return code;
  }
  return ExitCode::done;
}

}  // namespace

ExitCode run_pack(const std::vector<TrainConfig>& configs, std::size_t width, comm::Communicator& comm,
                  const OnTrialEnd& on_end, const Milestones& milestones) {
  if (configs.empty()) return ExitCode::done;
  for (const TrainConfig& config : configs) {
    if (pack_key(config) != pack_key(configs.front())) {
      fail_input("a pack's trials must agree on base, data and batch sizes; ", config.output.string(), " and ",
                 configs.front().output.string(), " do not");
    }
  }
  const bool alone = changes_base(configs.front());
  if (alone && configs.size() > 1) return run_one_by_one(configs, comm, on_end, milestones);
  pipeline::AgreeingCommunicator agreeing(comm);
  SharedSetup shared(configs.front(), agreeing);
  const c10::DeviceGuard current(shared.device);
  const auto gpu_world = gradient_world(shared.device, comm);
  if (gpu_world) agreeing.use(*gpu_world);
  return Pack(configs, alone ? 1 : std::max<std::size_t>(1, width), shared, agreeing, on_end, milestones).run();
}

ExitCode run(const TrainConfig& config, comm::Communicator& comm) { return run_pack({config}, 1, comm); }

}  // namespace ldmtune::train
