#include "sweep/trials.h"

#include <algorithm>
#include <cstdio>

#include "core/log.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "sweep/rung_files.h"
#include "train/setup.h"
#include "train/signals.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string folder_name(const Trial& trial) {
  char number[24];
  std::snprintf(number, sizeof number, "%03lld", static_cast<long long>(trial.number));
  return std::string(number) + "-" + trial.id;
}

fs::path failure_file(const fs::path& folder) { return folder.string() + ".failed.json"; }

/// The datasets that a finished trial was trained on must be those that are there now.
void expect_same_dataset(const fs::path& folder, const json& result, const TrainConfig& config) {
  const std::string recorded = result.value("dataset_sha256", "");
  const std::string present = recorded.empty() ? recorded : train::training_data_sha256(config);
  if (!present.empty() && present != recorded) {
    fail_input(folder.string(), ": this trial was trained on another dataset: its sha256 was ", recorded.substr(0, 12),
               "…, ", config.data.string(), " has ", present.substr(0, 12),
               "…; choose another sweep.output or remove the folder");
  }
}

json read_result(const fs::path& file) {
  json result = store::read_json(file);
  if (!result.is_object())
    fail_input(file.string(), ": expected a JSON object; remove the trial's folder to train it again");
  return result;
}

bool has_checkpoint(const fs::path& folder) {
  std::error_code error;
  const fs::directory_iterator entries(folder / "checkpoints", error);
  return !error && std::any_of(begin(entries), end(entries), [](const fs::directory_entry& entry) {
    return entry.path().filename().string().rfind("step-", 0) == 0;
  });
}

/// How one trial ended, the same on every rank.
struct Outcome {
  ExitCode code = ExitCode::done;
  std::string reason;
};

/// Trains on all ranks; an error of any rank becomes the outcome of all.
Outcome train_together(const TrainConfig& config, comm::Communicator& comm, const Trainer& trainer) {
  Outcome own;
  try {
    own.code = trainer(config, comm);
  } catch (const Error& error) {
    own = {error.code(), error.what()};
  } catch (const std::exception& error) {
    own = {ExitCode::failed, error.what()};
  }
  const bool refused = own.code == ExitCode::failed || own.code == ExitCode::bad_input;
  const std::vector<std::string> reasons =
      comm.all_gather(refused ? (own.reason.empty() ? "no reason given" : own.reason) : "");
  const std::vector<double> codes = comm.all_gather(std::vector<double>{static_cast<double>(own.code)});
  for (std::size_t rank = 0; rank < reasons.size(); ++rank) {
    if (!reasons[rank].empty()) return {static_cast<ExitCode>(static_cast<int>(codes[rank])), reasons[rank]};
  }
  return own;
}

/// Status and folder as rank 0 sees them, "done" at a rung too; other ranks must not look at files that it is changing.
TrialState shared_state(const Grid& grid, const Trial& trial, comm::Communicator& comm) {
  const json message = json::parse(pipeline::root_gives(comm, [&] {
    const TrialState own = read_state(grid.sweep.output, trial);
    const bool done = own.status == TrialStatus::done ||
                      (grid.pause_step > 0 && measured_loss(grid.sweep.output, trial, grid.pause_step));
    return json{{"folder", own.folder.string()}, {"done", done}}.dump();
  }));
  TrialState state;
  state.folder = message.at("folder").get<std::string>();
  state.status = message.at("done").get<bool>() ? TrialStatus::done : TrialStatus::pending;
  return state;
}

Outcome run_one(const Grid& grid, const Trial& trial, comm::Communicator& comm, const Trainer& trainer) {
  const std::optional<TrainConfig> config = config_to_train(grid, trial, comm);
  if (!config) return {};
  Outcome outcome = train_together(*config, comm, trainer);
  if (outcome.code == ExitCode::failed || outcome.code == ExitCode::bad_input) {
    if (comm.rank() == 0) record_failure(config->output, trial, outcome.reason, outcome.code);
  }
  return outcome;
}

}  // namespace

void record_failure(const fs::path& folder, const Trial& trial, const std::string& reason, ExitCode code) {
  LDMTUNE_LOG(error) << "trial " << trial.number << " (" << trial.id << ") failed: " << reason;
  fs::create_directories(folder.parent_path());
  store::write_json(
      failure_file(folder),
      {{"trial", trial.number}, {"id", trial.id}, {"reason", reason}, {"exit_code", static_cast<int>(code)}});
}

std::optional<TrainConfig> config_to_train(const Grid& grid, const Trial& trial, comm::Communicator& comm) {
  const TrialState state = shared_state(grid, trial, comm);
  if (state.status == TrialStatus::done) {
    LDMTUNE_LOG(info) << "trial " << trial.number << " (" << trial.id << ") is "
                      << (grid.pause_step > 0 ? "at its rung already" : "done already");
    return std::nullopt;
  }
  if (comm.rank() == 0) fs::remove(failure_file(state.folder));
  std::string options;
  for (const auto& [name, value] : trial.varied) options += ", " + name + " = " + value;
  LDMTUNE_LOG(info) << "trial " << trial.number << " (" << trial.id << "), " << &trial - grid.trials.data() + 1
                    << " of " << grid.trials.size() << options << ", seed " << trial.config.train.seed;
  TrainConfig config = trial.config;
  config.output = state.folder;
  config.train.resume_from_checkpoint = "latest";
  return config;
}

std::string to_string(TrialStatus status) {
  switch (status) {
    case TrialStatus::pending:
      return "pending";
    case TrialStatus::interrupted:
      return "interrupted";
    case TrialStatus::done:
      return "done";
    case TrialStatus::failed:
      return "failed";
    case TrialStatus::stopped:
      return "stopped";
  }
  return "";
}

std::vector<const Trial*> chosen_trials(const Grid& grid, std::optional<std::int64_t> only) {
  std::vector<const Trial*> chosen;
  for (const Trial& trial : grid.trials) {
    if (!only || trial.number == *only) chosen.push_back(&trial);
  }
  if (chosen.empty()) {
    fail_input("sweep trial: expected a number from 0 to ", grid.trials.size() - 1, ", found ", only.value_or(-1));
  }
  return chosen;
}

fs::path trial_folder(const fs::path& sweep_output, const Trial& trial) {
  const fs::path trials = sweep_output / "trials";
  std::error_code error;
  std::vector<fs::path> same;
  for (const fs::directory_entry& entry : fs::directory_iterator(trials, error)) {
    const std::string name = entry.path().filename().string();
    const std::size_t dash = name.find('-');
    if (dash != std::string::npos && name.substr(dash + 1) == trial.id) same.push_back(entry.path());
  }
  return same.empty() ? trials / folder_name(trial) : *std::min_element(same.begin(), same.end());
}

TrialState read_state(const fs::path& sweep_output, const Trial& trial) {
  TrialState state;
  state.folder = trial_folder(sweep_output, trial);
  if (fs::exists(state.folder / "result.json")) {
    state.result = read_result(state.folder / "result.json");
    const std::string status = state.result.value("status", "");
    if (status == "done" || status == "stopped") {
      expect_same_dataset(state.folder, state.result, trial.config);
      state.status = status == "done" ? TrialStatus::done : TrialStatus::stopped;
      state.reason = state.result.value("reason", "");
      return state;
    }
  }
  if (fs::exists(failure_file(state.folder))) {
    state.status = TrialStatus::failed;
    state.reason = read_result(failure_file(state.folder)).value("reason", "");
  } else if (has_checkpoint(state.folder)) {
    state.status = TrialStatus::interrupted;
  }
  return state;
}

ExitCode run_trials(const Grid& grid, comm::Communicator& comm, const Trainer& trainer,
                    std::optional<std::int64_t> only, const std::function<void()>& after_each) {
  const std::vector<const Trial*> chosen = chosen_trials(grid, only);
  const train::StopSignals signals;  // between trials too
  std::size_t failures = 0, refusals = 0;
  for (const Trial* trial : chosen) {
    const Outcome outcome = run_one(grid, *trial, comm, trainer);
    if (outcome.code == ExitCode::interrupted) return ExitCode::interrupted;
    failures += outcome.code == ExitCode::failed || outcome.code == ExitCode::bad_input;
    refusals += outcome.code == ExitCode::bad_input;
    if (after_each && comm.rank() == 0) after_each();
    // A signal that came too late for the trial to stop at must still end the sweep.
    if (trial != chosen.back() && comm.any(train::StopSignals::received() != 0)) return ExitCode::interrupted;
  }
  if (failures == 0) return ExitCode::done;
  return refusals == chosen.size() ? ExitCode::bad_input : ExitCode::failed;
}

}  // namespace ldmtune::sweep
