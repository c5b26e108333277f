#pragma once
// SIGINT and SIGTERM as an error that cleans up, instead of an end that leaves a partial folder behind.

#include <csignal>

namespace ldmtune::pipeline {

/// While one lives, SIGINT and SIGTERM are remembered; afterwards they do what they did before. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Errors: Error naming the signal, if one came.
  void check() const;

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

}  // namespace ldmtune::pipeline
