#pragma once
// The audit trace: an HDF5 file from which another program can recompute the run (layout: README, "Trace").

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "store/hdf5_writer.h"
#include "train/step.h"
#include "train/tensor_bytes.h"

namespace ldmtune::train {

/// Collects what each rank's leaves hold; rank 0 writes the gathered rows. Watching changes no bit of the run.
class Trace final : public StepObserver {
 public:
  /// Writes the trial's initial parameters (after a resume, `first_step` > 0, its moments too). A collective.
  Trace(const std::filesystem::path& file, const Trial& trial, std::int64_t first_step, comm::Communicator& comm);

  void on_leaf(const LeafView& leaf) override;
  void on_gradient(std::size_t trial, const std::function<at::Tensor()>& gradient) override;
  /// After update `step` of the trial. A collective.
  void on_step_end(std::int64_t step, const Trial& trial, const TrialStep& result);
  void close();

 private:
  void write_arena(const std::string& group, const Trial& trial, const at::Tensor& flat);

  comm::Communicator& comm_;
  std::unique_ptr<store::Hdf5Writer> writer_;  ///< rank 0 only
  NamedTensors leaves_;                        ///< "micro_0003/noise" ...
  at::Tensor gradient_;
};

}  // namespace ldmtune::train
