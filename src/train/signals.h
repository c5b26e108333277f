#pragma once
// SIGTERM, SIGINT and SIGUSR2 ask a run to checkpoint and stop; a second SIGINT ends it at once.

#include <array>
#include <csignal>

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

 private:
  std::array<struct sigaction, 3> previous_actions_{};
};

}  // namespace ldmtune::train
