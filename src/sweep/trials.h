#pragma once
// Trials one after another, each a training run in <sweep.output>/trials/<NNN-id>/.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sweep/grid.h"

namespace ldmtune::sweep {

/// stopped: by successive halving (halving.h); a trial that waits at a rung is interrupted.
enum class TrialStatus { pending, interrupted, done, failed, stopped };
std::string to_string(TrialStatus status);

/// What the files of a trial say.
struct TrialState {
  TrialStatus status = TrialStatus::pending;
  std::filesystem::path folder;
  nlohmann::json result = nlohmann::json::object();  ///< result.json of a trial that is done, stopped, or at a rung
  std::string reason;                                ///< why a trial failed or was stopped
};

/// Where a trial lives: a folder of its id if there is one already (the grid may have grown since), else "<NNN>-<id>".
std::filesystem::path trial_folder(const std::filesystem::path& sweep_output, const Trial& trial);

/// Errors: InputError if result.json is damaged, or the trial was trained on another dataset than data/index.json is
/// now.
TrialState read_state(const std::filesystem::path& sweep_output, const Trial& trial);

/// All trials, or the one with this number. Errors: InputError if `only` is no trial of the grid.
std::vector<const Trial*> chosen_trials(const Grid& grid, std::optional<std::int64_t> only);

/// The configuration to train a trial with (its folder, resumed from the latest checkpoint); none if it is done
/// already, or was measured at the rung that the grid is part of. All ranks call it; a failure recorded earlier is
/// forgotten.
std::optional<TrainConfig> config_to_train(const Grid& grid, const Trial& trial, comm::Communicator& comm);

/// Logs why a trial failed and writes <NNN-id>.failed.json beside its folder. Rank 0 calls it.
void record_failure(const std::filesystem::path& folder, const Trial& trial, const std::string& reason, ExitCode code);

/// How a trial is trained: train::run but in tests.
using Trainer = std::function<ExitCode(const TrainConfig& config, comm::Communicator& comm)>;

/// Trains all trials, or one. A trial that is done is not run again; an interrupted one resumes. A trial that fails is
/// recorded beside its folder (<NNN-id>.failed.json) and the next goes on. All ranks call it and take part in each run;
/// rank 0 writes. Returns done; interrupted as soon as a run returns it; failed if a trial failed (bad_input if all did
/// so for their input). `after_each` is called on rank 0 after each trial that ran. Errors: InputError if `only` is no
/// trial of the grid.
ExitCode run_trials(const Grid& grid, comm::Communicator& comm, const Trainer& trainer,
                    std::optional<std::int64_t> only = std::nullopt, const std::function<void()>& after_each = nullptr);

}  // namespace ldmtune::sweep
