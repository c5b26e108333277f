#pragma once
// What a run leaves for sweeps and the analysis: run.json, rows of validation.csv, result.json.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "train/checkpoint.h"
#include "train/setup.h"

namespace ldmtune::train {

/// run.json: versions, git commit, hashes of base and datasets, ranks, device.
void write_run_description(const std::filesystem::path& run_folder, const TrialSetup& setup,
                           const CheckpointState& state, const comm::Communicator& comm);

/// step, concept_train, concept_heldout, adjacent, heldout quartiles, adjacent_drift, adjacent_trigger,
/// adjacent_trigger_drift.
std::vector<std::string> validation_columns();
/// Their values; empty where a set is empty.
std::vector<std::string> validation_row(std::int64_t step, const std::map<std::string, ValidationLoss>& losses);

/// result.json of a run: status "done" says that it is finished, "paused" that it left at a milestone.
void write_result(const TrialSetup& setup, const Trial& trial, const CheckpointState& state, const std::string& status,
                  const std::map<std::string, ValidationLoss>& base, const std::map<std::string, ValidationLoss>& last,
                  double seconds, double samples_per_s, int ranks);

}  // namespace ldmtune::train
