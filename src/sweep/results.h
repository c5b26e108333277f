#pragma once
// What came out of the trials: results.csv, the ranking, the winner (best.h exports it). Validation chooses; test
// losses are reported only.

#include <filesystem>
#include <string>
#include <vector>

#include "sweep/grid.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {

struct ResultRow {
  const Trial* trial = nullptr;
  TrialState state;
};
/// One row a trial, in the order of the grid. The rows refer to `grid`.
std::vector<ResultRow> read_results(const Grid& grid);

/// Trials with the same varied options but the seeds are replicates of one setting: the same text.
std::string setting_key(const Trial& trial);

/// A trial that is done and was measured.
bool is_scored(const ResultRow& row);

/// The scores of a result.json under the names of results.csv's columns.
nlohmann::json scores_of(const nlohmann::json& result);

/// A number of result.json; NaN where it is missing or null.
double score(const ResultRow& row, const std::string& key);

/// The table as CSV (RFC 4180): trial, id, status, every varied option, seed, subset_seed, heldout_loss,
/// base_heldout_loss, best_heldout_loss, best_step, train_loss, adjacent_loss, base_adjacent_loss, adjacent_drift,
/// adjacent_trigger_loss, base_adjacent_trigger_loss, adjacent_trigger_drift, test_loss, base_test_loss,
/// trainable_parameters, export_bytes, steps, training_tflops, seconds, samples_per_s, folder, reason. What is not
/// known is empty.
std::string results_csv(const Grid& grid, const std::vector<ResultRow>& rows);

/// Writes <sweep.output>/results.csv atomically.
void write_results(const Grid& grid, const std::vector<ResultRow>& rows);

/// The trial to export: of the options with the lowest mean held-out loss over their seeds, the seed with the lowest;
/// null if no trial is done. Without replicates that is the trial with the lowest held-out loss.
const ResultRow* winner(const std::vector<ResultRow>& rows);

/// `limit` of `among` (0: all of them), in their order: the winner where it is one of them; the trial with the lowest
/// held-out loss of each setting, settings by their mean over replicates, so that whoever is ranked high is there; then
/// further replicates by their loss.
std::vector<const ResultRow*> best_of(const std::vector<const ResultRow*>& among, const ResultRow* winner,
                                      std::int64_t limit);

/// For the console: finished trials by held-out loss, then the others with what became of them.
std::string results_table(const Grid& grid, const std::vector<ResultRow>& rows);

}  // namespace ldmtune::sweep
