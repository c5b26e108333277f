#include "sweep/trials.h"

#include <csignal>

#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

TEST_F(SweepTest, RunsEachTrialInAFolderOfItsOwnOnce) {
  const Grid grid = expand_grid(settings());
  EXPECT_EQ(run_trials(grid, *comm_, trainer()), ExitCode::done);
  ASSERT_EQ(runs_.size(), 4u);
  EXPECT_EQ(runs_[2].output, root_ / "sweep" / "trials" / ("002-" + grid.trials[2].id));
  EXPECT_EQ(runs_[2].train.resume_from_checkpoint, "latest");
  EXPECT_EQ(run_trials(grid, *comm_, trainer()), ExitCode::done);
  EXPECT_EQ(runs_.size(), 4u) << "finished trials are not run again";
}

TEST_F(SweepTest, RunsOneTrialAlone) {
  const Grid grid = expand_grid(settings());
  EXPECT_EQ(run_trials(grid, *comm_, trainer(), 3), ExitCode::done);
  ASSERT_EQ(runs_.size(), 1u);
  EXPECT_TRUE(runs_[0].hypernetwork.layer_norm);
  EXPECT_THROW(run_trials(grid, *comm_, trainer(), 4), InputError);
}

TEST_F(SweepTest, AGrownGridFindsItsFinishedTrials) {
  run_trials(expand_grid(settings()), *comm_, trainer());
  const Grid grown = expand_grid(settings({{"hypernetwork.layer_structure", "1,1,1 | 1,2,1 | 1,2,4,2,1"}}));
  run_trials(grown, *comm_, trainer());
  EXPECT_EQ(runs_.size(), 6u);
  EXPECT_EQ(read_state(grown.sweep.output, grown.trials[2]).folder.filename().string().substr(0, 3), "000");
}

TEST_F(SweepTest, AnInterruptionEndsTheSweepAndIsResumed) {
  const Grid grid = expand_grid(settings());
  int calls = 0;
  const Trainer stops_in_second = [&](const TrainConfig& config, comm::Communicator& comm) {
    if (++calls < 2) return trainer()(config, comm);
    fs::create_directories(config.output / "checkpoints" / "step-00000005");
    return ExitCode::interrupted;
  };
  EXPECT_EQ(run_trials(grid, *comm_, stops_in_second), ExitCode::interrupted);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(read_state(grid.sweep.output, grid.trials[1]).status, TrialStatus::interrupted);
  EXPECT_EQ(read_state(grid.sweep.output, grid.trials[2]).status, TrialStatus::pending);
  EXPECT_EQ(run_trials(grid, *comm_, trainer()), ExitCode::done);
  EXPECT_EQ(runs_.size(), 4u);
}

TEST_F(SweepTest, ASignalTooLateForItsTrialStillEndsTheSweep) {
  const Grid grid = expand_grid(settings());
  const Trainer signalled_at_the_end = [&](const TrainConfig& config, comm::Communicator& comm) {
    const ExitCode code = trainer()(config, comm);
    std::raise(SIGUSR2);
    return code;
  };
  EXPECT_EQ(run_trials(grid, *comm_, signalled_at_the_end), ExitCode::interrupted);
  EXPECT_EQ(runs_.size(), 1u);
  EXPECT_EQ(run_trials(grid, *comm_, signalled_at_the_end, 3), ExitCode::done) << "nothing was left to do";
}

TEST_F(SweepTest, AFailureIsRecordedAndTheNextTrialGoesOn) {
  const Grid grid = expand_grid(settings());
  const Trainer fails_in_first = [&](const TrainConfig& config, comm::Communicator& comm) {
    if (config.output.filename().string().rfind("000", 0) == 0) fail("loss is NaN at step 7");
    return trainer()(config, comm);
  };
  int after = 0;
  EXPECT_EQ(run_trials(grid, *comm_, fails_in_first, std::nullopt, [&] { ++after; }), ExitCode::failed);
  EXPECT_EQ(runs_.size(), 3u);
  EXPECT_EQ(after, 4);
  const TrialState state = read_state(grid.sweep.output, grid.trials[0]);
  EXPECT_EQ(state.status, TrialStatus::failed);
  EXPECT_EQ(state.reason, "loss is NaN at step 7");
  EXPECT_EQ(run_trials(grid, *comm_, trainer()), ExitCode::done) << "a failed trial is tried again";
  EXPECT_EQ(read_state(grid.sweep.output, grid.trials[0]).status, TrialStatus::done);
}

TEST_F(SweepTest, BadInputOfEveryTrialIsBadInputOfTheSweep) {
  const Grid grid = expand_grid(settings());
  const Trainer refuses = [](const TrainConfig&, comm::Communicator&) -> ExitCode { fail_input("base: not there"); };
  EXPECT_EQ(run_trials(grid, *comm_, refuses), ExitCode::bad_input);
  const Trainer refuses_norm = [&](const TrainConfig& config, comm::Communicator& comm) {
    if (config.hypernetwork.layer_norm) fail_input("norm: not here");
    return trainer()(config, comm);
  };
  EXPECT_EQ(run_trials(grid, *comm_, refuses_norm), ExitCode::failed);
}

TEST_F(SweepTest, AForeignExceptionIsAFailureToo) {
  const Grid grid = expand_grid(settings());
  const Trainer throws = [](const TrainConfig&, comm::Communicator&) -> ExitCode {
    throw std::runtime_error("disk full");
  };
  EXPECT_EQ(run_trials(grid, *comm_, throws, 0), ExitCode::failed);
  EXPECT_EQ(read_state(grid.sweep.output, grid.trials[0]).reason, "disk full");
}

TEST_F(SweepTest, ADatasetThatChangedIsRefused) {
  const Grid grid = expand_grid(settings());
  run_trials(grid, *comm_, trainer());
  store::write_text(root_ / "data" / "index.json", "{\"second\": true}");
  try {
    run_trials(grid, *comm_, trainer());
    FAIL() << "a trial of another dataset counted as done";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("another dataset"), std::string::npos);
  }
}

TEST_F(SweepTest, ADamagedResultIsRefused) {
  const Grid grid = expand_grid(settings());
  run_trials(grid, *comm_, trainer(), 0);
  store::write_text(trial_folder(grid.sweep.output, grid.trials[0]) / "result.json", "{\"status\": ");
  EXPECT_THROW(run_trials(grid, *comm_, trainer()), InputError);
}

}  // namespace
}  // namespace ldmtune::sweep
