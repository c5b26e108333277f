#pragma once
// Updates at which a sweep compares its trials (sweep/halving.h).

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ldmtune::train {

struct Milestones {
  std::vector<std::int64_t> steps;  ///< measured on held-out images after these updates, whatever validation.steps says
  /// Whether a training leaves after the last of them if it is not at its end then: with a checkpoint to go on from and
  /// a result.json whose status is "paused". What it trained is what it would have trained without leaving.
  bool pauses = false;

  bool holds(std::int64_t step) const { return std::find(steps.begin(), steps.end(), step) != steps.end(); }
};

}  // namespace ldmtune::train
