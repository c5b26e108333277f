#pragma once
// SIGTERM, SIGINT and SIGUSR2 ask a run to checkpoint and stop; a second SIGINT ends it at once.

namespace ldmtune::train {

/// Installs the handlers while it lives and puts the old ones back.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came on this rank, 0 if none.
  static int received();
};

}  // namespace ldmtune::train
