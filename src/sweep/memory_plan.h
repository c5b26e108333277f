#pragma once
// Memory of a training process, counted before anything is loaded: from config.json files, the headers of weight files
// and the dataset's index. What a pass needs follows from walking the networks (model/counted_networks.h).

#include <string>
#include <vector>

#include "core/config.h"
#include "optim/arena.h"
#include "sweep/cost.h"

namespace ldmtune::sweep {

struct MemoryItem {
  std::string name;
  double bytes = 0;
};

/// Of one rank.
struct MemoryPlan {
  std::vector<MemoryItem> always;   ///< from the start to the end
  std::vector<MemoryItem> in_turn;  ///< one at a time
  double kept_for_backward = 0;     ///< of the training step's item: activations; the rest is working memory

  double largest_in_turn() const;
  double total() const;
};

/// How many trials share a base, and the rows of how many their batches hold: those of empty places too, since a
/// trial's bits must not depend on its pack-mates.
struct PackShape {
  std::size_t trials = 1, width = 1;
};

/// `trained` as planned_parameters gives it. Of a pack: one of trials like this. Errors: InputError naming a file of
/// the base.
MemoryPlan memory_plan(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained,
                       const DataSize& data, int ranks, const PackShape& pack = {});

}  // namespace ldmtune::sweep
