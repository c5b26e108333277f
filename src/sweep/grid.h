#pragma once
// From settings with alternatives to trials: `hypernetwork.layer_structure = 1,2,1 | 1,2,4,2,1`; axes.h says what
// varies how, conditions.h what depends on what. Pure functions; nothing is read or written.

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/options.h"
#include "sweep/axes.h"
#include "sweep/conditions.h"

namespace ldmtune::sweep {

/// The [sweep] section.
struct SweepConfig {
  std::filesystem::path output;
  std::string seeds;         ///< comma-separated; see seed_list
  std::string subset_seeds;  ///< the same, over data.subset_seed
  std::string replicates = "crossed";
  std::string zip;         ///< see make_axes
  std::string conditions;  ///< see read_conditions
  std::int64_t draws = 0;  ///< see values_of
  std::uint64_t draw_seed = 0;
  std::int64_t pictures = 8;
  std::int64_t picture_trials = 16;    ///< 0: all
  std::string strengths;               ///< comma-separated; see strengths.h
  double tflops_per_s = 0;             ///< to estimate times with; 0: measured
  std::int64_t halving_factor = 0;     ///< see halving.h; 0: off
  std::int64_t halving_min_steps = 0;  ///< update of the first rung
};
void declare(OptionTable& table, SweepConfig& config);

/// One combination of the grid.
struct Trial {
  std::int64_t number = 0;  ///< position in the grid, from 0
  std::string id;           ///< 8 hex digits: a hash of everything that decides what is trained
  std::vector<std::pair<std::string, std::string>>
      varied;                      ///< (option, resolved text) in the order of Grid::varied, without replicates' seeds
  std::set<std::string> inactive;  ///< varied options whose condition does not hold here: they stand at their default
  TrainConfig config;              ///< output is left as the settings say; trials.h decides the folder
  std::string resolved;            ///< the config file that `id` is the hash of
};

struct Grid {
  SweepConfig sweep;
  std::vector<VariedOption> varied;  ///< in the order of the settings; replicates (sweep.seeds ...) are not among them
  std::vector<Condition> conditions;
  std::vector<Trial> trials;    ///< the first varied option changes slowest, the seed fastest
  std::int64_t pause_step = 0;  ///< of a rung (halving.h): its trials train up to this update; 0: to their end
};

/// Options that say where and how far a process runs, not what is trained: they may not vary and do not enter the id.
bool is_operational(const std::string& option);

/// Expands settings (a later one replaces an earlier one of the same name). `|` outside quotes separates alternatives,
/// but in sample.prompts, where it separates prompts. Trials that a condition or a random draw makes equal are taken
/// once. Errors: InputError for what OptionTable refuses in any trial, an operational option that varies, equal
/// alternatives, more than 10,000 trials, sweep.output missing, bad options of [sweep].
Grid expand_grid(const std::vector<OptionSetting>& settings);

}  // namespace ldmtune::sweep
