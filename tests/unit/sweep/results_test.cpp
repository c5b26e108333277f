#include "sweep/results.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "store/image.h"
#include "sweep/best.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line.substr(0, line.find('\r')));
  return lines;
}

class Results : public SweepTest {
 protected:
  /// Finishes the trials of `grid` with these held-out losses (NaN: not run).
  void finish(const Grid& grid, const std::vector<double>& losses) const {
    for (std::size_t i = 0; i < losses.size(); ++i) {
      if (!std::isnan(losses[i])) write_result(trial_folder(grid.sweep.output, grid.trials[i]), losses[i]);
    }
  }
};

TEST_F(Results, TableHasOneRowATrialAndEmptyCellsForTheUnknown) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, 0.25, NAN, 0.2});
  write_results(grid, read_results(grid));
  const std::vector<std::string> lines = lines_of(store::read_text(grid.sweep.output / "results.csv"));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0],
            "trial,id,status,hypernetwork.layer_structure,hypernetwork.layer_norm,seed,subset_seed,heldout_loss,base_"
            "heldout_loss,"
            "best_heldout_loss,best_step,train_loss,adjacent_loss,base_adjacent_loss,adjacent_drift,"
            "adjacent_trigger_loss,base_adjacent_trigger_loss,adjacent_trigger_drift,test_loss,base_test_loss,"
            "trainable_parameters,export_bytes,steps,training_tflops,seconds,samples_per_s,folder,reason");
  EXPECT_EQ(lines[1], "0," + grid.trials[0].id +
                          ",done,\"1,2,1\",false,0,0,0.3,0.5,,,0.05,,,,,,,0.7,,,,10,,,,trials/000-" +
                          grid.trials[0].id + ",");
  EXPECT_EQ(lines[3].substr(0, 11), "2," + grid.trials[2].id + ",");
  EXPECT_NE(lines[3].find(",pending,\"1,2,4,2,1\",false,0,0,,,"), std::string::npos);
}

TEST_F(Results, QuotesAreDoubledAndReasonsKept) {
  const Grid grid = expand_grid(settings());
  const Trainer fails = [](const TrainConfig&, comm::Communicator&) -> ExitCode { fail("said \"no\", twice"); };
  run_trials(grid, *comm_, fails, 1);
  const std::vector<std::string> lines = lines_of(results_csv(grid, read_results(grid)));
  EXPECT_NE(lines[2].find("failed"), std::string::npos);
  EXPECT_NE(lines[2].find("\"said \"\"no\"\", twice\""), std::string::npos);
}

TEST_F(Results, PicturesTakeTheWinnerAndTheBestOthersInTheOrderOfTheGrid) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, 0.2, 0.4, 0.25});
  const std::vector<ResultRow> rows = read_results(grid);
  std::vector<const ResultRow*> all;
  for (const ResultRow& row : rows) all.push_back(&row);
  EXPECT_EQ(best_of(all, winner(rows), 2), (std::vector<const ResultRow*>{all[1], all[3]}));
  EXPECT_EQ(best_of(all, all[2], 2), (std::vector<const ResultRow*>{all[1], all[2]}));  // best over its seeds
  EXPECT_EQ(best_of(all, winner(rows), 0), all);
  EXPECT_EQ(best_of(all, winner(rows), 9), all);
}

TEST_F(Results, EachSettingsBestReplicateComesBeforeFurtherOnes) {
  const Grid grid = expand_grid(settings({{"sweep.seeds", "0,1"}}));
  // Four settings, ranked 0, 2, 1, 3 by their means; the two lowest losses are of one setting.
  finish(grid, {0.11, 0.10, 0.40, 0.42, 0.29, 0.31, 0.35, 0.60});
  const std::vector<ResultRow> rows = read_results(grid);
  std::vector<const ResultRow*> all;
  for (const ResultRow& row : rows) all.push_back(&row);
  const auto numbers = [&](std::int64_t limit) {
    std::vector<std::int64_t> found;
    for (const ResultRow* row : best_of(all, winner(rows), limit)) found.push_back(row->trial->number);
    return found;
  };
  EXPECT_EQ(numbers(2), (std::vector<std::int64_t>{1, 4}));
  EXPECT_EQ(numbers(3), (std::vector<std::int64_t>{1, 2, 4})) << "by mean: 0.41 before 0.475";
  EXPECT_EQ(numbers(4), (std::vector<std::int64_t>{1, 2, 4, 6}));
  EXPECT_EQ(numbers(6), (std::vector<std::int64_t>{0, 1, 2, 4, 5, 6})) << "then 0.11 and 0.31";
}

TEST_F(Results, ValidationChoosesNotTest) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, 0.25, 0.2, 0.4});  // the fixture's test losses run the other way
  EXPECT_EQ(winner(read_results(grid))->trial->number, 2);
}

TEST_F(Results, ReplicatesAreJudgedByTheirMean) {
  const Grid grid = expand_grid(settings({{"hypernetwork.layer_structure", "1,2,1"}, {"sweep.seeds", "0,1"}}));
  finish(grid, {0.10, 0.40, 0.21, 0.19});
  EXPECT_EQ(winner(read_results(grid))->trial->number, 3);
}

TEST_F(Results, NothingDoneHasNoWinner) {
  const Grid grid = expand_grid(settings());
  EXPECT_EQ(winner(read_results(grid)), nullptr);
  EXPECT_THROW(export_best(grid, read_results(grid)), Error);
}

TEST_F(Results, BestIsACopyWithACard) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, 0.25, 0.2, NAN});
  const fs::path file = export_best(grid, read_results(grid));
  EXPECT_EQ(file, grid.sweep.output / "best.pt");
  EXPECT_EQ(store::read_text(file), "weights of 002-" + grid.trials[2].id);
  const nlohmann::json card = store::read_json(grid.sweep.output / "best.json");
  EXPECT_EQ(card.at("trial"), 2);
  EXPECT_EQ(card.at("candidates"), 3);
  EXPECT_EQ(card.at("options").at("hypernetwork.layer_structure"), "1,2,4,2,1");
  EXPECT_EQ(card.at("scores").at("heldout_loss"), 0.2);
  EXPECT_TRUE(card.at("scores").at("adjacent_loss").is_null());
  EXPECT_EQ(card.at("sha256"), store::sha256_file(file));
}

TEST_F(Results, BestHasAReadableCardAndAPictureWhereSomeWereDrawn) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, NAN, 0.2, NAN});
  export_best(grid, read_results(grid));
  EXPECT_FALSE(fs::exists(grid.sweep.output / "best.png"));
  const fs::path pictures = grid.sweep.output / "pictures";
  const std::string trial = "002-" + grid.trials[2].id;
  for (const std::string& column : {std::string("base"), trial}) {
    fs::create_directories(pictures / column);
    store::write_png(pictures / column / "7.png", at::full({64, 64, 3}, 90, at::kByte));
  }
  store::write_json(pictures / "index.json", {{"images", {{{"sample_id", 7}, {"caption", "a red ball"}}}}});
  export_best(grid, read_results(grid));
  EXPECT_GT(store::read_image(grid.sweep.output / "best.png").size(1), 2 * 128);
  const std::string card = store::read_text(grid.sweep.output / "best.md");
  for (const char* said : {"hypernetwork.layer_structure | 1,2,4,2,1", "best.png", "heldout_loss | 0.2", "trial 2 of",
                           "test images chose nothing"}) {
    EXPECT_NE(card.find(said), std::string::npos) << said << "\n" << card;
  }
}

TEST_F(Results, WithoutPicturesTheLastPreviewIsTaken) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3});
  const fs::path samples = trial_folder(grid.sweep.output, grid.trials[0]) / "samples";
  fs::create_directories(samples);
  store::write_text(samples / "step-00000005.png", "old");
  store::write_text(samples / "step-00000010.png", "last");
  export_best(grid, read_results(grid));
  EXPECT_EQ(store::read_text(grid.sweep.output / "best.png"), "last");
}

TEST_F(Results, WhatDoesNotCountIsEmpty) {
  const Grid grid =
      expand_grid(settings({{"hypernetwork.layer_norm_init", "ones | zero_last"},
                            {"sweep.conditions", "hypernetwork.layer_norm_init if hypernetwork.layer_norm = true"}}));
  finish(grid, {0.3});
  const std::vector<std::string> lines = lines_of(results_csv(grid, read_results(grid)));
  EXPECT_NE(lines[1].find(",\"1,2,1\",false,,0,0,0.3"), std::string::npos) << lines[1];
}

TEST_F(Results, AMissingExportIsAnErrorThatKeepsTheOldBest) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3});
  export_best(grid, read_results(grid));
  finish(grid, {0.3, 0.2});
  fs::remove_all(trial_folder(grid.sweep.output, grid.trials[1]) / "checkpoints");
  EXPECT_THROW(export_best(grid, read_results(grid)), Error);
  EXPECT_EQ(store::read_json(grid.sweep.output / "best.json").at("trial"), 0);
}

TEST_F(Results, ConsoleTableRanksByHeldOutLoss) {
  const Grid grid = expand_grid(settings());
  finish(grid, {0.3, NAN, 0.2, 0.25});
  const std::vector<std::string> lines = lines_of(results_table(grid, read_results(grid)));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[2][0], '2');
  EXPECT_EQ(lines[3][0], '3');
  EXPECT_EQ(lines[4][0], '0');
  EXPECT_NE(lines[5].find("pending"), std::string::npos);
}

}  // namespace
}  // namespace ldmtune::sweep
