#pragma once
// Fit against forgetting: the best trial of each method at strengths between the untouched base and its end.

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sweep/results.h"

namespace ldmtune::sweep {

/// Of each combination of the varied options other than the learning rate, the winner (results.h): one trial a method,
/// and a budget where that varies too, at the learning rate and seed that validation chose.
std::vector<const ResultRow*> tuned_winners(const std::vector<ResultRow>& rows);

/// With sweep.strengths: measures the tuned winners at these (train/strengths.h) into strengths.csv of their folders.
/// What is there already is kept. All ranks call it. Returns interrupted where a stop signal came.
/// Errors: InputError naming sweep.strengths.
ExitCode measure_winners(const Grid& grid, const std::vector<ResultRow>& rows, comm::Communicator& comm);

/// The winners' measurements as one table, a row a trial, strength and kind of images: trial, id, varied options, seed,
/// strength, kind, images, loss, drift. Empty where nothing was measured.
std::string strengths_table_csv(const Grid& grid, const std::vector<ResultRow>& rows);

}  // namespace ldmtune::sweep
