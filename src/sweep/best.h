#pragma once
// The chosen trial as files that can be handed on: what it trained, a picture, and a card.

#include <filesystem>
#include <vector>

#include "sweep/results.h"

namespace ldmtune::sweep {

/// Copies the winner's last checkpoint in its exchange format to <sweep.output>/best<extension> (best.pt) and writes
/// best.json (which trial, options, scores, base, dataset, sha256), best.md (the same to read) and, where pictures were
/// drawn, best.png: held-out captions by the base and by it (else the run's last preview; without any, no picture).
/// Returns the file. Errors: Error if no trial is done or its export is missing.
std::filesystem::path export_best(const Grid& grid, const std::vector<ResultRow>& rows);

}  // namespace ldmtune::sweep
