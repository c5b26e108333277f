#include "sweep/halving.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>

#include "core/log.h"
#include "optim/schedule.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "sweep/packs.h"
#include "sweep/plan.h"
#include "sweep/results.h"
#include "sweep/rung_files.h"
#include "sweep/trials.h"
#include "train/setup.h"
#include "train/signals.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;

/// Updates of the longest training. Errors: see plan_rungs.
std::int64_t longest_training(const Grid& grid) {
  std::int64_t longest = 0;
  for (const Trial& trial : grid.trials) {
    const TrainConfig& config = trial.config;
    if (config.train.num_train_epochs > 0 || config.train.max_tflops > 0) {
      fail_input("option sweep.halving_factor: expected trials whose length train.max_train_steps says, found ",
                 config.train.num_train_epochs > 0 ? "train.num_train_epochs" : "train.max_tflops", " in trial ",
                 trial.number, "; rungs count updates");
    }
    const auto last = optim::PiecewiseSchedule(config.optim.learning_rate, "optim.learning_rate").last_update();
    longest = std::max(longest, std::min(config.train.max_train_steps, last.value_or(config.train.max_train_steps)));
  }
  return longest;
}

void check_options(const SweepConfig& sweep, std::int64_t longest) {
  if (sweep.halving_factor < 2) {
    fail_input("option sweep.halving_factor: expected 0 (off) or 2 and above, found ", sweep.halving_factor);
  }
  if (sweep.halving_min_steps < 1 || sweep.halving_min_steps >= longest) {
    fail_input("option sweep.halving_min_steps: expected the first rung's update, from 1 to ", longest - 1,
               " (the longest trial has ", longest, "), found ", sweep.halving_min_steps);
  }
}

/// Numbers of replicates of the settings, the largest first.
std::vector<std::size_t> replicates_by_setting(const Grid& grid) {
  std::map<std::string, std::size_t> counts;
  for (const Trial& trial : grid.trials) ++counts[setting_key(trial)];
  std::vector<std::size_t> sizes;
  for (const auto& [key, count] : counts) sizes.push_back(count);
  std::sort(sizes.rbegin(), sizes.rend());
  return sizes;
}

std::string decimals(double value) {
  char text[48];
  std::snprintf(text, sizeof text, value < 10 ? "%.2f" : "%.0f", value);
  return text;
}

Grid part_of(const Grid& grid, const std::set<std::string>& ids) {
  Grid part = grid;
  std::erase_if(part.trials, [&](const Trial& trial) { return ids.count(trial.id) == 0; });
  return part;
}

/// What a judgement needs: every trial's loss or failure. Errors: see rung_grid.
std::vector<Candidate> candidates_of(const Grid& part, std::size_t rung, std::int64_t step) {
  std::vector<Candidate> candidates;
  for (const Trial& trial : part.trials) {
    Candidate candidate{&trial, measured_loss(part.sweep.output, trial, step)};
    if (!candidate.loss && read_state(part.sweep.output, trial).status != TrialStatus::failed) {
      fail("rung ", rung, " of the sweep cannot be judged: trial ", trial.number, " (", trial.id,
           ") has neither been measured after update ", step, " nor failed; train it first (ldmtune sweep run, or ",
           "slurm/submit.sh again)");
    }
    candidates.push_back(candidate);
  }
  return candidates;
}

Judgement judge(const Grid& part, std::size_t rung, const std::vector<Rung>& rungs) {
  const std::vector<Candidate> candidates = candidates_of(part, rung, rungs[rung].step);
  const std::vector<const Trial*> going_on = survivors(candidates, rungs[rung + 1].settings);
  Judgement judgement{rung, rungs[rung].step, rungs[rung + 1].settings, {}, {}};
  for (const Candidate& candidate : candidates) judgement.losses.emplace_back(candidate.trial->id, candidate.loss);
  Grid next = part;
  next.trials.clear();
  for (const Trial* trial : going_on) next.trials.push_back(*trial);
  for (const auto& group : plan_packs(next, std::numeric_limits<std::ptrdiff_t>::max())) {
    judgement.groups.emplace_back();
    for (const Trial* trial : group) judgement.groups.back().push_back(trial->id);
  }
  return judgement;
}

/// The recorded judgement of a rung; none where there is none, or of other candidates.
std::optional<Judgement> known_judgement(const Grid& grid, std::size_t rung, const std::vector<Rung>& rungs,
                                         const std::set<std::string>& candidates) {
  if (rung + 1 >= rungs.size()) return std::nullopt;
  std::optional<Judgement> known = read_judgement(grid.sweep.output, rung);
  const bool holds = known && known->step == rungs[rung].step && known->keep == rungs[rung + 1].settings &&
                     known->candidates() == candidates;
  return holds ? std::move(known) : std::nullopt;
}

Judgement judge_and_record(const Grid& part, std::size_t rung, const std::vector<Rung>& rungs) {
  Judgement judgement = judge(part, rung, rungs);
  write_judgement(part.sweep.output, judgement);
  LDMTUNE_LOG(info) << "rung " << rung << " judged after update " << judgement.step << ", "
                    << judgement.survivors().size() << " of " << part.trials.size() << " trials go on";
  return judgement;
}

/// Trials that are to train in `rung`, by id, after judging all rungs before it. Rank 0 alone.
std::set<std::string> judge_up_to(const Grid& grid, std::size_t rung, const std::vector<Rung>& rungs) {
  std::map<std::string, End> ends;
  std::set<std::string> alive;
  for (const Trial& trial : grid.trials) alive.insert(trial.id);
  for (std::size_t r = 0; r < rung; ++r) {
    const std::optional<Judgement> known = known_judgement(grid, r, rungs, alive);
    const Judgement judgement = known ? *known : judge_and_record(part_of(grid, alive), r, rungs);
    ends.merge(ends_of(judgement));
    alive = judgement.survivors();
  }
  mark_trials(grid, ends);
  if (rung + 1 == rungs.size()) return alive;
  if (known_judgement(grid, rung, rungs, alive)) return {};
  // Refuses those that went past the rung before others train for nothing.
  for (const Trial& trial : part_of(grid, alive).trials) measured_loss(grid.sweep.output, trial, rungs[rung].step);
  return alive;
}

}  // namespace

std::vector<Rung> plan_rungs(const Grid& grid) {
  const SweepConfig& sweep = grid.sweep;
  if (sweep.halving_factor == 0 || grid.trials.empty()) return {};
  const std::int64_t longest = longest_training(grid);
  check_options(sweep, longest);
  const std::vector<std::size_t> replicates = replicates_by_setting(grid);
  std::vector<Rung> rungs;
  std::size_t settings = replicates.size();
  const auto add = [&](std::int64_t step) {
    std::size_t trials = 0;
    for (std::size_t i = 0; i < settings; ++i) trials += replicates[i];
    rungs.push_back({step, settings, trials});
    settings = std::max<std::size_t>(1, settings / static_cast<std::size_t>(sweep.halving_factor));
  };
  for (std::int64_t step = sweep.halving_min_steps; step < longest && settings > 1;) {
    add(step);
    if (step > longest / sweep.halving_factor) break;
    step *= sweep.halving_factor;
  }
  add(longest);
  return rungs;
}

std::size_t most_packs(const Grid& grid, std::size_t trials, std::size_t width) {
  std::map<std::string, std::size_t> groups;
  for (const Trial& trial : grid.trials) ++groups[train::pack_key(trial.config)];
  std::size_t packs = 0;
  for (const auto& [key, count] : groups) packs += (std::min(count, trials) + width - 1) / width;
  return std::min(packs, trials);
}

std::string rungs_table(const Grid& grid, double tflops, std::optional<std::size_t> width) {
  const std::vector<Rung> rungs = plan_rungs(grid);
  std::vector<std::vector<std::string>> rows{{"successive halving", "up to step", "settings", "trials", "TFLOP"}};
  if (width) rows[0].emplace_back("packs");
  const double of_step = tflops / static_cast<double>(grid.trials.size()) / static_cast<double>(rungs.back().step);
  double total = 0;
  for (std::size_t r = 0; r < rungs.size(); ++r) {
    const std::int64_t steps = rungs[r].step - (r > 0 ? rungs[r - 1].step : 0);
    const double own = of_step * static_cast<double>(steps) * static_cast<double>(rungs[r].trials);
    total += own;
    rows.push_back({cat("rung ", r), std::to_string(rungs[r].step), std::to_string(rungs[r].settings),
                    std::to_string(rungs[r].trials), decimals(own)});
    if (width) rows.back().push_back(std::to_string(most_packs(grid, rungs[r].trials, *width)));
  }
  return format_table(rows) + cat("\nAbout ", decimals(total), " of ", decimals(tflops), " TFLOP: halving saves ",
                                  std::lround(100 * (1 - total / std::max(tflops, 1e-300))),
                                  "%, counting trials as equally long.\n");
}

std::vector<const Trial*> survivors(const std::vector<Candidate>& candidates, std::size_t keep) {
  struct Setting {
    double sum = 0, count = 0;
    std::string id;
  };
  std::map<std::string, Setting> settings;
  for (const auto& [trial, loss] : candidates) {
    Setting& setting = settings[setting_key(*trial)];
    setting.sum += loss.value_or(std::numeric_limits<double>::quiet_NaN());
    ++setting.count;
    if (setting.id.empty() || trial->id < setting.id) setting.id = trial->id;
  }
  std::vector<std::tuple<double, std::string, std::string>> order;  // mean, id, key
  for (const auto& [key, setting] : settings) {
    if (std::isfinite(setting.sum)) order.emplace_back(setting.sum / setting.count, setting.id, key);
  }
  std::sort(order.begin(), order.end());
  std::set<std::string> kept;
  for (std::size_t i = 0; i < std::min(keep, order.size()); ++i) kept.insert(std::get<2>(order[i]));
  std::vector<const Trial*> going_on;
  for (const Candidate& candidate : candidates) {
    if (kept.count(setting_key(*candidate.trial))) going_on.push_back(candidate.trial);
  }
  return going_on;
}

Grid rung_grid(const Grid& grid, std::size_t rung, comm::Communicator& comm) {
  const std::vector<Rung> rungs = plan_rungs(grid);
  if (rung >= rungs.size()) {
    fail_input("sweep: expected a rung from 0 to ", static_cast<std::int64_t>(rungs.size()) - 1,
               " as `sweep plan` lists them, found ", rung);
  }
  const json ids = json::parse(pipeline::root_gives(comm, [&] { return json(judge_up_to(grid, rung, rungs)).dump(); }));
  Grid part = part_of(grid, ids.get<std::set<std::string>>());
  part.pause_step = rung + 1 < rungs.size() ? rungs[rung].step : 0;
  return part;
}

train::Milestones milestones_of(const Grid& grid, std::size_t rung) {
  const std::vector<Rung> rungs = plan_rungs(grid);
  train::Milestones milestones;
  for (std::size_t r = 0; r <= rung && r + 1 < rungs.size(); ++r) milestones.steps.push_back(rungs[r].step);
  milestones.pauses = rung + 1 < rungs.size();
  return milestones;
}

ExitCode run_rungs(const Grid& grid, comm::Communicator& comm, const RungTrainer& train_rung) {
  const train::StopSignals signals;  // between rungs too
  const std::size_t count = plan_rungs(grid).size();
  ExitCode worst = ExitCode::done;
  for (std::size_t rung = 0; rung < count; ++rung) {
    const Grid part = rung_grid(grid, rung, comm);
    if (part.trials.empty()) continue;  // judged already, or all failed
    if (comm.rank() == 0 && part.pause_step > 0) {
      LDMTUNE_LOG(info) << "rung " << rung << ": " << part.trials.size() << " trials up to update " << part.pause_step;
    }
    const ExitCode code = train_rung(part, milestones_of(grid, rung));
    if (code == ExitCode::interrupted || (rung == 0 && code == ExitCode::bad_input)) return code;
    if (code != ExitCode::done) worst = ExitCode::failed;
    if (rung + 1 < count && comm.any(train::StopSignals::received() != 0)) return ExitCode::interrupted;
  }
  return worst;
}

}  // namespace ldmtune::sweep
