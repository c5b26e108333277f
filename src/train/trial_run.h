#pragma once
// One trial from start or checkpoint to result: its run folder, measurements, previews and checkpoints. The updates
// themselves come from a pack (train/pack.h), whose step serves several trials.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/log.h"
#include "train/checkpoint.h"
#include "train/csv_log.h"
#include "train/milestones.h"
#include "train/preview.h"
#include "train/run_folder.h"
#include "train/setup.h"
#include "train/step.h"
#include "train/stopping.h"
#include "train/trace.h"

namespace ldmtune::train {

class TrialRun {
 public:
  /// Decides between a fresh start and a resume. Errors: InputError before anything is written.
  TrialRun(const TrainConfig& config, SharedSetup& shared, comm::Communicator& comm, Milestones milestones = {});

  /// Opens the run folder and measures the untouched base. A collective, as all below.
  void start();
  /// Books the update that a step just made, with this trial's share of its seconds: metrics, trace. Throws Error where
  /// it was not finite, after saving the last good state.
  void after_update(const TrialStep& result, double seconds);
  /// Measurements, previews and the checkpoint that are due now; `stop` makes a checkpoint due.
  void after_step(bool stop);
  /// After the last update, or at the milestone where it pauses: result.json.
  void finish();

  bool is_finished() const { return trial_.step >= setup_.max_train_steps || stopping_.says_stop(); }
  /// At the milestone that it leaves after, or beyond.
  bool is_paused() const { return milestones_.pauses && !is_finished() && trial_.step >= milestones_.steps.back(); }
  std::int64_t step() const { return trial_.step; }
  std::int64_t first_step() const { return first_step_; }
  /// The update after which it is finished or paused, unless stop.rule ends it earlier.
  std::int64_t last_step() const;
  const TrainConfig& config() const { return setup_.config; }
  Trial& trial() { return trial_; }
  /// The trace, while the next update is one of those it holds; else null.
  StepObserver* observer();
  /// "loss 0.0712, 45.1 samples/s"
  std::string progress_note() const;
  void renew_lock();

 private:
  std::filesystem::path checkpoint_to_resume() const;
  void resume_or_start();
  void open_root_files();
  /// Loss of the untouched base on all sets: the rows of step 0.
  void measure_base();
  /// Measures and draws the base before training changes it.
  void remember_untouched_base();
  void measure(bool final);
  /// One more value for the stopping rule.
  void watch_for_stop();
  void append_image_losses(const ValidationSet& set, const ValidationLoss& loss, std::int64_t step);
  void save();
  bool is_due(std::int64_t every) const;
  bool is_traced_update(std::int64_t step) const;

  TrialSetup setup_;
  comm::Communicator& comm_;
  const Milestones milestones_;
  const bool is_root_;
  Trial trial_;
  StoppingRule stopping_;
  CheckpointState state_;
  std::filesystem::path resumed_from_;
  std::int64_t first_step_ = 0;
  double update_seconds_ = 0;  ///< of updates by this process
  double last_loss_ = 0;
  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<FileLog> log_;
  std::unique_ptr<CsvLog> metrics_, validation_, image_losses_, stopping_log_;
  std::unique_ptr<Trace> trace_;
  std::optional<Preview> preview_;
  std::map<std::string, ValidationLoss> last_losses_, base_losses_;
};

}  // namespace ldmtune::train
