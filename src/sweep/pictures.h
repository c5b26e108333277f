#pragma once
// What the trials draw for captions they never trained on, beside the untouched base, the real image and its VAE round
// trip.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "sweep/grid.h"
#include "sweep/results.h"

namespace ldmtune::sweep {

/// One held-out image whose caption is drawn.
struct Picture {
  std::size_t sample = 0;       ///< index into the datasets
  std::uint64_t sample_id = 0;  ///< DatasetMix::sample_key
  std::string split;            ///< "validation" or "test"
  std::string caption, source;
  std::int32_t width = 0, height = 0;
};

/// Draws into <sweep.output>/pictures/{base,real,roundtrip,<trial folder's name>}/<sample_id>.png, ranks sharing the
/// work, and writes pictures/index.json. Of the finished trials it takes the best (sweep.picture_trials). Every trial
/// gets the same initial noise. What is drawn already with the same settings, base, dataset and checkpoint is kept. All
/// ranks call it. Trials on another base, noise schedule or dataset than the first one's are left out with a warning.
/// The real images are left out with a warning where the image folder is gone. Returns interrupted, without an index,
/// if a stop signal came (train::StopSignals); what is drawn is kept.
ExitCode draw_pictures(const Grid& grid, const std::vector<ResultRow>& rows, comm::Communicator& comm);

}  // namespace ldmtune::sweep
