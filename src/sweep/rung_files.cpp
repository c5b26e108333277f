#include "sweep/rung_files.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/options.h"
#include "store/files.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

fs::path judgement_file(const fs::path& sweep_output, std::size_t rung) {
  return sweep_output / "halving" / ("rung-" + std::to_string(rung) + ".json");
}

json loss_of(const std::optional<double>& loss) { return loss && std::isfinite(*loss) ? json(*loss) : json(nullptr); }

/// The row of this step in validation.csv, column by column; empty without one.
std::vector<std::string> validation_row_of(const fs::path& folder, std::int64_t step) {
  std::ifstream file(folder / "validation.csv");
  std::vector<std::string> fields;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(std::to_string(step) + ",", 0) != 0) continue;
    std::istringstream in(line);
    fields.clear();
    for (std::string field; std::getline(in, field, ',');) fields.push_back(field);
  }
  return fields;
}

/// Step of the newest checkpoint; -1 without one.
std::int64_t newest_checkpoint(const fs::path& folder) {
  std::int64_t newest = -1;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder / "checkpoints", error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && name.find_first_not_of("0123456789", 5) == std::string::npos) {
      newest = std::max<std::int64_t>(newest, std::stoll(name.substr(5)));
    }
  }
  return newest;
}

void mark_stopped(const TrialState& state, const End& end) {
  json result = state.result;
  if (result.value("status", "") == "stopped" && result.value("reason", "") == end.reason) return;
  if (!result.contains("heldout_loss")) {
    result["steps"] = end.step;
    result["heldout_loss"] = loss_of(end.loss);
  }
  result["status"] = "stopped";
  result["rung"] = end.rung;
  result["reason"] = end.reason;
  fs::create_directories(state.folder);
  store::write_json(state.folder / "result.json", result);
}

}  // namespace

std::set<std::string> Judgement::candidates() const {
  std::set<std::string> ids;
  for (const auto& [id, loss] : losses) ids.insert(id);
  return ids;
}

std::set<std::string> Judgement::survivors() const {
  std::set<std::string> ids;
  for (const auto& group : groups) ids.insert(group.begin(), group.end());
  return ids;
}

std::optional<Judgement> read_judgement(const fs::path& sweep_output, std::size_t rung) {
  const fs::path file = judgement_file(sweep_output, rung);
  if (!fs::exists(file)) return std::nullopt;
  const json text = store::read_json(file);
  Judgement judgement;
  try {
    judgement.rung = text.at("rung").get<std::size_t>();
    judgement.step = text.at("step").get<std::int64_t>();
    judgement.keep = text.at("settings_that_go_on").get<std::size_t>();
    for (const json& entry : text.at("candidates")) {
      const json& loss = entry.at("heldout_loss");
      judgement.losses.emplace_back(entry.at("id").get<std::string>(),
                                    loss.is_number() ? std::optional(loss.get<double>()) : std::nullopt);
    }
    judgement.groups = text.at("go_on").get<std::vector<std::vector<std::string>>>();
  } catch (const json::exception& error) {
    fail_input(file.string(), ": expected what ldmtune wrote about a rung (", error.what(),
               "); remove it to have the rung judged again");
  }
  return judgement;
}

void write_judgement(const fs::path& sweep_output, const Judgement& judgement) {
  json candidates = json::array();
  for (const auto& [id, loss] : judgement.losses) candidates.push_back({{"id", id}, {"heldout_loss", loss_of(loss)}});
  fs::create_directories(sweep_output / "halving");
  store::write_json(judgement_file(sweep_output, judgement.rung), {{"format", "ldmtune-rung"},
                                                                   {"version", 1},
                                                                   {"rung", judgement.rung},
                                                                   {"step", judgement.step},
                                                                   {"settings_that_go_on", judgement.keep},
                                                                   {"candidates", candidates},
                                                                   {"go_on", judgement.groups}});
}

std::map<std::string, End> ends_of(const Judgement& judgement) {
  const std::set<std::string> going_on = judgement.survivors();
  std::map<std::string, End> ends;
  for (const auto& [id, loss] : judgement.losses) {
    if (going_on.count(id)) continue;
    const std::string measured = loss ? " with held-out loss " + format_number(*loss) : "";
    ends[id] = {judgement.rung, judgement.step, loss,
                cat("rung ", judgement.rung, ", after update ", judgement.step, measured, "; ", going_on.size(), " of ",
                    judgement.losses.size(), " trials went on")};
  }
  return ends;
}

void mark_trials(const Grid& grid, const std::map<std::string, End>& ends) {
  for (const Trial& trial : grid.trials) {
    const TrialState state = read_state(grid.sweep.output, trial);
    if (state.status == TrialStatus::done || state.status == TrialStatus::failed) continue;
    if (const auto end = ends.find(trial.id); end != ends.end()) {
      mark_stopped(state, end->second);
    } else if (state.status == TrialStatus::stopped) {
      json result = state.result;
      result["status"] = "paused";
      result.erase("rung");
      result.erase("reason");
      store::write_json(state.folder / "result.json", result);
    }
  }
}

std::optional<double> measured_loss(const fs::path& sweep_output, const Trial& trial, std::int64_t step) {
  const fs::path folder = trial_folder(sweep_output, trial);
  const std::vector<std::string> row = validation_row_of(folder, step);
  if (row.size() > 2) {  // step, concept_train, concept_heldout
    if (row[2].empty()) {
      fail_input(folder.string(),
                 ": no held-out images were measured, so sweep.halving_factor has nothing to compare; ",
                 "prepare the dataset with --validation_images");
    }
    return std::strtod(row[2].c_str(), nullptr);
  }
  const TrialState state = read_state(sweep_output, trial);
  const bool done = state.status == TrialStatus::done;
  const std::int64_t steps = done ? state.result.value("steps", std::int64_t{0}) : newest_checkpoint(folder);
  if (done && steps <= step) {
    const json loss = state.result.value("heldout_loss", json());
    return loss.is_number() ? loss.get<double>() : std::nan("");
  }
  if (steps > step) {
    fail_input("trial ", trial.number, " (", folder.string(), ") was trained to update ", steps,
               " without being measured after update ", step,
               ", where sweep.halving_factor compares; choose another sweep.output, or remove the folder");
  }
  return std::nullopt;
}

}  // namespace ldmtune::sweep
