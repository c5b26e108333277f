#include "sweep/halving.h"

#include <cmath>
#include <csignal>
#include <limits>

#include "sweep/packs.h"
#include "sweep/results.h"
#include "sweep/rung_files.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;
using Numbers = std::vector<std::int64_t>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class Halving : public SweepTest {
 protected:
  /// Eight settings at 16 updates with rungs at 2, 4 and 8; more options replace these.
  Grid halved(const std::vector<std::pair<std::string, std::string>>& more = {}) const {
    std::vector<std::pair<std::string, std::string>> options{{"optim.learning_rate", "1e-3 | 2e-3"},
                                                             {"train.max_train_steps", "16"},
                                                             {"sweep.halving_factor", "2"},
                                                             {"sweep.halving_min_steps", "2"}};
    options.insert(options.end(), more.begin(), more.end());
    return expand_grid(settings(options));
  }

  /// "Trains" a trial to `step`: the files that train::run_pack leaves of it. Its loss is `loss_of_` its number.
  void train(const Grid& grid, const Trial& trial, std::int64_t step, bool paused) {
    const fs::path folder = trial_folder(grid.sweep.output, trial);
    const double loss = loss_of_(trial.number, step);
    fs::create_directories(folder / "checkpoints" / ("step-" + std::to_string(step)));
    std::ofstream(folder / "validation.csv", std::ios::app) << step << ",0.5," << loss << ",\r\n";
    write_result(folder, loss);
    fs::remove_all(folder / "checkpoints" / "step-00000010");
    nlohmann::json result = store::read_json(folder / "result.json");
    result["steps"] = step;
    result["status"] = paused ? "paused" : "done";
    store::write_json(folder / "result.json", result);
    trained_.emplace_back(trial.number, step);
  }

  RungTrainer rung_trainer(const Grid& grid) {
    return [this, &grid](const Grid& part, const train::Milestones& milestones) {
      ExitCode worst = ExitCode::done;
      for (const Trial& trial : part.trials) {
        const auto config = config_to_train(part, trial, *comm_);
        if (!config) continue;
        if (fails_.count(trial.number)) {
          record_failure(config->output, trial, "loss nan", ExitCode::failed);
          worst = ExitCode::failed;
          continue;
        }
        if (--budget_ < 0) return ExitCode::interrupted;
        train(grid, trial, milestones.pauses ? milestones.steps.back() : 16, milestones.pauses);
      }
      return worst;
    };
  }

  Numbers numbers_at(std::int64_t step) const {
    Numbers numbers;
    for (const auto& [number, at] : trained_) {
      if (at == step) numbers.push_back(number);
    }
    return numbers;
  }

  std::map<std::int64_t, TrialStatus> statuses(const Grid& grid) const {
    std::map<std::int64_t, TrialStatus> found;
    for (const ResultRow& row : read_results(grid)) found[row.trial->number] = row.state.status;
    return found;
  }

  std::function<double(std::int64_t, std::int64_t)> loss_of_ = [](std::int64_t number, std::int64_t) {
    return 0.1 + 0.01 * static_cast<double>(number);
  };
  std::set<std::int64_t> fails_;
  std::vector<std::pair<std::int64_t, std::int64_t>> trained_;
  int budget_ = 1000;
};

TEST_F(Halving, RungsAreAtPowersOfTheFactorAndLeaveTheBestShare) {
  const std::vector<Rung> rungs = plan_rungs(halved());
  ASSERT_EQ(rungs.size(), 4u);
  const std::vector<std::pair<std::int64_t, std::size_t>> expected{{2, 8}, {4, 4}, {8, 2}, {16, 1}};
  for (std::size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(rungs[r].step, expected[r].first);
    EXPECT_EQ(rungs[r].settings, expected[r].second);
    EXPECT_EQ(rungs[r].trials, expected[r].second);
  }
  EXPECT_TRUE(plan_rungs(halved({{"sweep.halving_factor", "0"}})).empty());
}

TEST_F(Halving, AtLeastOneSettingGoesOnAndReplicatesCountAsOne) {
  const auto rungs = plan_rungs(halved({{"sweep.halving_factor", "3"}, {"sweep.seeds", "0,1,2"}}));
  ASSERT_EQ(rungs.size(), 3u);  // 2, 6 and the end: 18 would be past it
  EXPECT_EQ(rungs[0].trials, 24u);
  EXPECT_EQ(rungs[1].step, 6);
  EXPECT_EQ(rungs[1].settings, 2u);
  EXPECT_EQ(rungs[1].trials, 6u);
  EXPECT_EQ(rungs[2].step, 16);
  EXPECT_EQ(rungs[2].settings, 1u);
}

TEST_F(Halving, ALastSettingTrainsToItsEndWithoutMoreRungs) {
  const auto rungs = plan_rungs(halved({{"sweep.halving_factor", "8"}, {"sweep.halving_min_steps", "1"}}));
  ASSERT_EQ(rungs.size(), 2u);
  EXPECT_EQ(rungs[1].step, 16);
  EXPECT_EQ(plan_rungs(halved({{"optim.learning_rate", "1e-3"},
                               {"hypernetwork.layer_norm", "false"},
                               {"hypernetwork.layer_structure", "1,2,1"}}))
                .size(),
            1u);
}

TEST_F(Halving, ALearningRateThatEndsEarlierEndsTheRungs) {
  const auto rungs = plan_rungs(halved({{"optim.learning_rate", "\"1e-3:4, 1e-4:7\" | \"1e-3:3, 1e-4:6\""}}));
  ASSERT_EQ(rungs.size(), 3u);
  EXPECT_EQ(rungs.back().step, 7);
}

TEST_F(Halving, BadOptionsAreNamed) {
  const auto refused = [&](const std::vector<std::pair<std::string, std::string>>& options, const char* said) {
    try {
      plan_rungs(halved(options));
      ADD_FAILURE() << "taken: " << said;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(said), std::string::npos) << error.what();
    }
  };
  refused({{"sweep.halving_factor", "1"}}, "option sweep.halving_factor");
  refused({{"sweep.halving_min_steps", "0"}}, "option sweep.halving_min_steps");
  refused({{"sweep.halving_min_steps", "16"}}, "from 1 to 15");
  refused({{"train.num_train_epochs", "3"}}, "train.num_train_epochs");
}

TEST_F(Halving, SettingsAreJudgedByTheMeanOfTheirReplicates) {
  const Grid grid = halved({{"hypernetwork.layer_norm", "false"}, {"sweep.seeds", "0,1"}});  // 4 settings
  std::vector<Candidate> candidates;
  const std::vector<std::optional<double>> losses{0.1, 0.4, 0.2, 0.2, 0.05, std::nullopt, 0.01, kNan};
  for (std::size_t i = 0; i < losses.size(); ++i) candidates.push_back({&grid.trials[i], losses[i]});
  const auto numbers = [&](std::size_t keep) {
    Numbers found;
    for (const Trial* trial : survivors(candidates, keep)) found.push_back(trial->number);
    return found;
  };
  EXPECT_EQ(numbers(1), (Numbers{2, 3}));
  EXPECT_EQ(numbers(2), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(numbers(4), (Numbers{0, 1, 2, 3})) << "a setting with a failed replicate goes on nowhere";
}

TEST_F(Halving, TiesGoToTheLowestIdWhateverTheOrder) {
  const Grid grid = halved();
  std::vector<Candidate> candidates;
  for (const Trial& trial : grid.trials) candidates.push_back({&trial, 0.25});
  std::vector<std::string> ids;
  for (const Trial& trial : grid.trials) ids.push_back(trial.id);
  std::sort(ids.begin(), ids.end());
  for (int turn = 0; turn < 2; ++turn) {
    std::set<std::string> kept;
    for (const Trial* trial : survivors(candidates, 3)) kept.insert(trial->id);
    EXPECT_EQ(kept, (std::set<std::string>{ids[0], ids[1], ids[2]}));
    std::reverse(candidates.begin(), candidates.end());
  }
}

TEST_F(Halving, TheBestTrainOnAndTheOthersAreStopped) {
  const Grid grid = halved();
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::done);
  EXPECT_EQ(numbers_at(2), (Numbers{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(numbers_at(4), (Numbers{0, 1, 2, 3}));
  EXPECT_EQ(numbers_at(8), (Numbers{0, 1}));
  EXPECT_EQ(numbers_at(16), Numbers{0});
  const std::vector<ResultRow> rows = read_results(grid);
  EXPECT_EQ(rows[0].state.status, TrialStatus::done);
  for (std::size_t i = 1; i < rows.size(); ++i) EXPECT_EQ(rows[i].state.status, TrialStatus::stopped) << i;
  EXPECT_NE(rows[5].state.reason.find("rung 0, after update 2 with held-out loss 0.15; 4 of 8"), std::string::npos)
      << rows[5].state.reason;
  EXPECT_EQ(rows[2].state.result.at("rung"), 1);
  EXPECT_FALSE(is_scored(rows[1])) << "a stopped trial is no candidate for best";
  EXPECT_EQ(winner(rows)->trial->number, 0);
  EXPECT_NE(results_csv(grid, rows).find(",stopped,"), std::string::npos);
  trained_.clear();
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::done);
  EXPECT_TRUE(trained_.empty()) << "nothing is left to do";
}

TEST_F(Halving, AFailedTrialLosesAndIsNotTriedAgainOnceItsRungIsJudged) {
  const Grid grid = halved();
  fails_ = {0};
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::failed);
  EXPECT_EQ(numbers_at(4), (Numbers{1, 2, 3, 4}));
  EXPECT_EQ(statuses(grid)[0], TrialStatus::failed);
  fails_.clear();
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::done);
  EXPECT_EQ(statuses(grid)[0], TrialStatus::failed);
}

TEST_F(Halving, WhereAllFailNothingGoesOn) {
  const Grid grid = halved();
  fails_ = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::failed);
  EXPECT_TRUE(trained_.empty());
}

TEST_F(Halving, InterruptedAnywhereItEndsTheSame) {
  const Grid grid = halved();
  for (int stops = 0; stops < 20; ++stops) {
    budget_ = 2;
    if (run_rungs(grid, *comm_, rung_trainer(grid)) == ExitCode::done) break;
  }
  EXPECT_EQ(trained_.size(), 8u + 4u + 2u + 1u) << "nothing is trained twice";
  EXPECT_EQ(numbers_at(8), (Numbers{0, 1}));
  EXPECT_EQ(statuses(grid)[0], TrialStatus::done);
}

TEST_F(Halving, AJudgementStaysThoughATrialIsDamagedLater) {
  const Grid grid = halved();
  budget_ = 10;
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::interrupted);
  fs::remove_all(trial_folder(grid.sweep.output, grid.trials[7]));
  fs::remove_all(trial_folder(grid.sweep.output, grid.trials[6]));
  budget_ = 1000;
  EXPECT_EQ(run_rungs(grid, *comm_, rung_trainer(grid)), ExitCode::done);
  EXPECT_EQ(numbers_at(2).size(), 8u);
  EXPECT_EQ(numbers_at(16), Numbers{0});
}

TEST_F(Halving, AGrownGridIsJudgedAgain) {
  run_rungs(halved(), *comm_, rung_trainer(halved()));
  loss_of_ = [](std::int64_t number, std::int64_t) { return number < 4 ? 0.01 : 0.5; };  // the new trials are better
  const Grid grown = halved({{"hypernetwork.layer_structure", "1,1,1 | 1,2,1 | 1,2,4,2,1"}});
  trained_.clear();
  EXPECT_EQ(run_rungs(grown, *comm_, rung_trainer(grown)), ExitCode::done);
  EXPECT_EQ(numbers_at(2), (Numbers{0, 1, 2, 3})) << "the others were measured there";
  const auto found = statuses(grown);
  EXPECT_EQ(found.at(4), TrialStatus::done) << "the old winner stays done";
  EXPECT_EQ(std::count_if(found.begin(), found.end(), [](auto& one) { return one.second == TrialStatus::done; }), 2);
}

TEST_F(Halving, ATrialThatEndsBeforeARungCompetesWithItsEnd) {
  const Grid grid = halved({{"train.max_train_steps", "3 | 16"}, {"hypernetwork.layer_norm", "false"}});
  for (const Trial& trial : grid.trials) train(grid, trial, 2, true);
  for (const Trial& trial : grid.trials) {
    if (trial.config.train.max_train_steps == 3) train(grid, trial, 3, false);
  }
  EXPECT_EQ(*measured_loss(grid.sweep.output, grid.trials[0], 4), loss_of_(grid.trials[0].number, 3));
}

TEST_F(Halving, TrainedPastARungWithoutAMeasurementIsRefused) {
  const Grid grid = halved();
  fs::create_directories(trial_folder(grid.sweep.output, grid.trials[3]) / "checkpoints" / "step-00000005");
  try {
    run_rungs(grid, *comm_, rung_trainer(grid));
    FAIL() << "a trial of a sweep without halving was taken";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("trial 3"), std::string::npos) << error.what();
    EXPECT_TRUE(trained_.empty()) << "before others train for nothing";
  }
}

TEST_F(Halving, ARungIsNotJudgedBeforeAllArrived) {
  const Grid grid = halved();
  for (std::size_t i = 0; i < 7; ++i) train(grid, grid.trials[i], 2, true);
  try {
    rung_grid(grid, 1, *comm_);
    FAIL() << "judged without trial 7";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find("trial 7"), std::string::npos) << error.what();
  }
  train(grid, grid.trials[7], 2, true);
  EXPECT_EQ(rung_grid(grid, 1, *comm_).trials.size(), 4u);
  EXPECT_TRUE(rung_grid(grid, 0, *comm_).trials.empty()) << "rung 0 is over";
  EXPECT_THROW(rung_grid(grid, 4, *comm_), InputError);
}

TEST_F(Halving, SurvivorsFillPacksAnew) {
  const Grid grid = halved();
  loss_of_ = [](std::int64_t number, std::int64_t) { return number % 2 == 0 ? 0.1 : 0.2; };
  for (const Trial& trial : grid.trials) train(grid, trial, 2, true);
  const Grid part = rung_grid(grid, 1, *comm_);
  const auto packs = plan_packs(part, 4);
  ASSERT_EQ(packs.size(), 1u);
  EXPECT_EQ(packs[0].size(), 4u);
  EXPECT_EQ(read_judgement(grid.sweep.output, 0)->groups,
            (std::vector<std::vector<std::string>>{
                {grid.trials[0].id, grid.trials[2].id, grid.trials[4].id, grid.trials[6].id}}));
  EXPECT_EQ(most_packs(grid, 4, 4), 1u);
  EXPECT_EQ(most_packs(grid, 8, 3), 3u);
}

TEST_F(Halving, MilestonesLeadToTheRung) {
  const Grid grid = halved();
  EXPECT_EQ(milestones_of(grid, 1).steps, (Numbers{2, 4}));
  EXPECT_TRUE(milestones_of(grid, 1).pauses);
  EXPECT_EQ(milestones_of(grid, 3).steps, (Numbers{2, 4, 8}));
  EXPECT_FALSE(milestones_of(grid, 3).pauses);
}

TEST_F(Halving, ThePlanSaysWhatIsSaved) {
  const std::string table = rungs_table(halved(), 16.0, 4);
  // Steps 2, 2, 4 and 8 of 8, 4, 2 and 1 trials: 40 of 8 x 16.
  EXPECT_NE(table.find("halving saves 69%"), std::string::npos) << table;
  EXPECT_NE(table.find("rung 1"), std::string::npos) << table;
}

}  // namespace
}  // namespace ldmtune::sweep
