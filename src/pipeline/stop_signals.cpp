#include "pipeline/stop_signals.h"

#include "core/error.h"

namespace ldmtune::pipeline {
namespace {

// A handler may touch nothing else.
volatile std::sig_atomic_t received = 0;

void remember(int signal) { received = signal; }

}  // namespace

StopSignals::StopSignals() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

void StopSignals::check() const {
  if (received != 0) fail("stopped by ", received == SIGINT ? "SIGINT" : "SIGTERM", "; nothing was written");
}

}  // namespace ldmtune::pipeline
