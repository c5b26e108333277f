#pragma once
// What successive halving writes: judgements in <sweep.output>/halving/, and the fate of trials in their result.json.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sweep/grid.h"

namespace ldmtune::sweep {

/// Who went on from a rung.
struct Judgement {
  std::size_t rung = 0;
  std::int64_t step = 0;
  std::size_t keep = 0;                                               ///< settings that may go on
  std::vector<std::pair<std::string, std::optional<double>>> losses;  ///< by id, in the order of the grid; none: failed
  std::vector<std::vector<std::string>> groups;  ///< ids of those that go on; those of a group may share a pack

  std::set<std::string> candidates() const;
  std::set<std::string> survivors() const;
};

/// halving/rung-R.json; none where it is not there. Errors: InputError where it is damaged.
std::optional<Judgement> read_judgement(const std::filesystem::path& sweep_output, std::size_t rung);

/// Writes it atomically.
void write_judgement(const std::filesystem::path& sweep_output, const Judgement& judgement);

/// A trial that does not go on from a rung.
struct End {
  std::size_t rung = 0;
  std::int64_t step = 0;
  std::optional<double> loss;
  std::string reason;
};
/// By id.
std::map<std::string, End> ends_of(const Judgement& judgement);

/// Says in their result.json that these trials ended at a rung: status "stopped", rung and reason; what was measured
/// stays. Trials that are done or failed keep that; one that goes on after all is "paused" again.
void mark_trials(const Grid& grid, const std::map<std::string, End>& ends);

/// A trial's held-out loss after `step` updates, or at its end if that came earlier; none if it was not measured there
/// yet. Errors: InputError where it went past without being measured.
std::optional<double> measured_loss(const std::filesystem::path& sweep_output, const Trial& trial, std::int64_t step);

}  // namespace ldmtune::sweep
