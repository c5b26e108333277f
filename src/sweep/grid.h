#pragma once
// From settings with alternatives to trials: `hypernetwork.layer_structure = 1,2,1 | 1,2,4,2,1`. Pure functions;
// nothing is read or written.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/options.h"

namespace ldmtune::sweep {

/// The [sweep] section.
struct SweepConfig {
  std::filesystem::path output;
  std::string seeds;  ///< comma-separated; see seed_list
  std::int64_t pictures = 8;
};
void declare(OptionTable& table, SweepConfig& config);

/// An option with more than one value.
struct VariedOption {
  std::string name;
  std::vector<std::string> values;  ///< as OptionTable::set takes them
};

/// One combination of the grid.
struct Trial {
  std::int64_t number = 0;  ///< position in the grid, from 0
  std::string id;           ///< 8 hex digits: a hash of everything that decides what is trained
  std::vector<std::pair<std::string, std::string>>
      varied;            ///< (option, resolved text) in the order of Grid::varied, without seeds
  TrainConfig config;    ///< output is left as the settings say; trials.h decides the folder
  std::string resolved;  ///< the config file that `id` is the hash of
};

struct Grid {
  SweepConfig sweep;
  std::vector<VariedOption> varied;  ///< in the order of the settings; replicates (sweep.seeds) are not among them
  std::vector<Trial> trials;         ///< the first varied option changes slowest, the seed fastest
};

/// Options that say where and how far a process runs, not what is trained: they may not vary and do not enter the id.
bool is_operational(const std::string& option);

/// Expands settings (a later one replaces an earlier one of the same name). `|` outside quotes separates alternatives,
/// but in sample.prompts, where it separates prompts. Errors: InputError for what OptionTable refuses in any trial, an
/// operational option that varies, equal alternatives, more than 10,000 trials, sweep.output missing, bad sweep.seeds.
Grid expand_grid(const std::vector<OptionSetting>& settings);

/// Whole numbers of "0,1,2"; empty: none. Errors: InputError naming sweep.seeds (not a number, repeated).
std::vector<std::uint64_t> seed_list(const std::string& text);

}  // namespace ldmtune::sweep
