#pragma once
// Checkpoints: folders that exist whole or not at all, and can be resumed on another number of ranks.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "train/stopping.h"
#include "train/trial.h"

namespace ldmtune::train {

/// What a checkpoint holds besides tensors.
struct CheckpointState {
  std::int64_t step = 0;
  double seconds = 0;  ///< training time so far, over all resumes
  double base_heldout_loss = 0, best_heldout_loss = 0;
  std::int64_t best_step = 0;
  std::string base_sha256, base_name, dataset_sha256;
  std::string init_sha256;                    ///< of the file that the training started from; empty if from none
  std::string adapter_name;                   ///< what users see in the web UI
  std::map<std::string, std::string> config;  ///< every option as text
  std::vector<StoppingRule::Value> stop_values;
};

/// Writes checkpoints/step-NNNNNNNN of the run folder (a collective) and removes the oldest beyond `limit` (0: keep
/// all), the best step's excepted. Errors: Error naming the file that could not be written.
void write_checkpoint(const std::filesystem::path& run_folder, const Trial& trial, const CheckpointState& state,
                      std::int64_t limit, comm::Communicator& comm);

/// The state of a checkpoint whose MANIFEST's checksums hold.
/// Errors: InputError naming what is missing or damaged.
CheckpointState read_checkpoint_state(const std::filesystem::path& checkpoint);

/// Parameters and this rank's moments into the trial. Errors: InputError if the layout is another one.
void load_checkpoint(const std::filesystem::path& checkpoint, Trial& trial);

/// Options that define a run's bits and differ between the checkpoint and now. Errors: InputError naming the first.
void check_same_run(const CheckpointState& state, const CheckpointState& now, const std::filesystem::path& checkpoint);

/// Name of the adapter's exchange file inside a checkpoint.
std::string export_file_name(const Trial& trial, const std::string& adapter_name);

}  // namespace ldmtune::train
