#pragma once
// Training steps by the clock: no run folder, no measurements between them.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "train/setup.h"
#include "train/step.h"

namespace ldmtune::train {

/// Time of the wall clock, and of this process on its CPUs.
struct Spent {
  double seconds = 0;
  double cpu_seconds = 0;
};

/// Trials of one configuration that differ in their seeds, trained as a pack and one after another.
class Bench {
 public:
  /// Errors: InputError as of TrialSetup.
  Bench(const TrainConfig& config, std::size_t trials, SharedSetup& shared, comm::Communicator& comm);

  /// One update of each trial in one forward; a collective, as the next.
  Spent step_packed();
  /// One update of each trial, one after another.
  Spent step_in_turn();

  std::int64_t trainable_parameters() const { return trials_.front().arena->trainable_elements(); }

 private:
  const TrialSetup setup_;
  const at::Device device_;
  std::vector<Trial> trials_;
  Step packed_, alone_;
};

/// What a large matrix product of this type reaches on the device, in operations a second (a multiplication and an
/// addition are two): the best of the rounds that fit into `seconds`, of three at least.
double measured_peak(at::Device device, at::ScalarType dtype, double seconds);

/// The most that this process has held so far, in bytes.
std::int64_t peak_host_memory();
/// Likewise of tensors on the device; 0 on the CPU.
std::int64_t peak_device_memory(at::Device device);

}  // namespace ldmtune::train
