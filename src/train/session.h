#pragma once
// The training loop of one run: steps, validation, previews, checkpoints, stop signals.

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "train/checkpoint.h"
#include "train/csv_log.h"
#include "train/preview.h"
#include "train/run_folder.h"
#include "train/setup.h"
#include "train/signals.h"
#include "train/step.h"
#include "train/trace.h"

namespace ldmtune::train {

class Session {
 public:
  /// Decides between a fresh start and a resume, then opens the run folder. Errors: InputError before anything is
  /// written.
  Session(Setup& setup, comm::Communicator& comm);

  ExitCode run();

 private:
  void open_run_folder();
  void open_root_files();
  void resume_or_start();
  std::filesystem::path checkpoint_to_resume() const;

  /// Loss of the untouched base on all sets: the rows of step 0.
  void measure_base();
  void measure(std::int64_t step, bool final);
  void append_image_losses(std::int64_t step, const ValidationSet& set, const ValidationLoss& loss);

  /// One update and its row of metrics.csv. Throws Error where it is not finite, after saving the last good state.
  void update(std::int64_t step, ProgressBar& bar);
  void save(std::int64_t step);
  bool should_stop(std::int64_t step);
  ExitCode interrupted(std::int64_t step);
  void finish();
  double seconds() const;
  bool is_due(std::int64_t every, std::int64_t step) const;

  Setup& setup_;
  comm::Communicator& comm_;
  const bool is_root_;
  std::vector<Trial> trials_;
  Step step_;
  CheckpointState state_;
  std::filesystem::path resumed_from_;
  std::optional<StopSignals> signals_;  ///< while training; before that a signal ends the process, and nothing is lost
  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<FileLog> log_;
  std::unique_ptr<CsvLog> metrics_, validation_, image_losses_;
  std::unique_ptr<Trace> trace_;
  std::optional<Preview> preview_;
  std::chrono::steady_clock::time_point started_;
  std::int64_t first_step_ = 0;
  double step_seconds_ = 0;  ///< spent in updates by this process
  std::map<std::string, ValidationLoss> last_losses_, base_losses_;
};

}  // namespace ldmtune::train
