#include "sweep/grid.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "core/error.h"
#include "store/files.h"

namespace ldmtune::sweep {
namespace {

constexpr std::size_t kLargestGrid = 10'000;
constexpr const char* kSeed = "train.seed";

/// Last value of each option, at the place where the option came first.
std::vector<OptionSetting> without_repeats(const std::vector<OptionSetting>& settings) {
  std::vector<OptionSetting> unique;
  std::map<std::string, std::size_t> place;
  for (const OptionSetting& setting : settings) {
    const auto [found, added] = place.emplace(setting.name, unique.size());
    if (added) {
      unique.push_back(setting);
    } else {
      unique[found->second] = setting;
    }
  }
  return unique;
}

std::vector<std::string> alternatives(const OptionSetting& setting) {
  if (setting.name == "sample.prompts") return {setting.text};
  std::vector<std::string> values = split_list(setting.text, '|');
  if (values.size() < 2) return {setting.text};
  for (std::string& value : values) value = quote_value(value);
  return values;
}

bool belongs_to_sweep(const std::string& option) { return option.rfind("sweep.", 0) == 0; }

SweepConfig read_sweep_options(const std::vector<OptionSetting>& settings) {
  SweepConfig config;
  OptionTable table;
  declare(table, config);
  for (const OptionSetting& setting : settings) {
    if (belongs_to_sweep(setting.name)) table.set(setting);
  }
  if (config.output.empty())
    fail_input("option sweep.output: expected the folder of the sweep, found nothing; set it in [sweep]");
  if (config.pictures < 0) fail_input("option sweep.pictures: expected 0 or above, found ", config.pictures);
  return config;
}

/// The settings that do not vary, and those that do.
struct Parts {
  std::vector<OptionSetting> fixed;
  std::vector<VariedOption> varied;
  std::map<std::string, std::string> where;
};

Parts separate(const std::vector<OptionSetting>& settings) {
  Parts parts;
  for (const OptionSetting& setting : settings) {
    if (belongs_to_sweep(setting.name)) continue;
    const std::vector<std::string> values = alternatives(setting);
    if (values.size() == 1) {
      parts.fixed.push_back(setting);
      continue;
    }
    if (is_operational(setting.name)) {
      fail_input("option ", setting.name, " (", setting.where, "): expected one value, found ", values.size(),
                 " alternatives; it does not change what is trained");
    }
    parts.varied.push_back({setting.name, values});
    parts.where[setting.name] = setting.where;
  }
  return parts;
}

/// The configuration as a file, without the options that do not decide what is trained.
std::string identity_text(const OptionTable& table) {
  std::string text;
  for (const std::string& name : table.names()) {
    if (!is_operational(name)) text += name + " = " + table.text_of(name) + "\n";
  }
  return text;
}

Trial make_trial(const Parts& parts, const std::vector<std::size_t>& choice) {
  Trial trial;
  OptionTable table;
  ldmtune::declare(table, trial.config);
  table.set(parts.fixed);
  for (std::size_t i = 0; i < choice.size(); ++i) {
    const VariedOption& option = parts.varied[i];
    table.set({option.name, option.values[choice[i]], parts.where.at(option.name)});
    trial.varied.emplace_back(option.name, table.text_of(option.name));
  }
  trial.resolved = identity_text(table);
  trial.id = store::sha256_text(trial.resolved).substr(0, 8);
  return trial;
}

/// Choice number `index` of the grid: the last option changes fastest.
std::vector<std::size_t> choice_of(std::size_t index, const std::vector<VariedOption>& varied) {
  std::vector<std::size_t> choice(varied.size());
  for (std::size_t i = varied.size(); i-- > 0;) {
    choice[i] = index % varied[i].values.size();
    index /= varied[i].values.size();
  }
  return choice;
}

std::size_t grid_size(const std::vector<VariedOption>& varied) {
  std::size_t size = 1;
  for (const VariedOption& option : varied) {
    size *= option.values.size();
    if (size > kLargestGrid)
      fail_input("the sweep's grid has more than ", kLargestGrid, " trials; give fewer alternatives");
  }
  return size;
}

std::string describe(const Trial& trial) {
  std::string text;
  for (const auto& [name, value] : trial.varied) text += (text.empty() ? "" : ", ") + name + " = " + value;
  return text;
}

void expect_distinct(const std::vector<Trial>& trials) {
  std::map<std::string, const Trial*> seen;
  for (const Trial& trial : trials) {
    const auto [other, added] = seen.emplace(trial.id, &trial);
    if (!added) {
      fail_input("trials ", other->second->number, " and ", trial.number, " of the sweep are the same (",
                 describe(trial), "); leave out the repeated alternative");
    }
  }
}

/// Replicates enter the grid as its fastest option; returns whether they did.
bool add_seeds(Parts& parts, const std::string& text) {
  const std::vector<std::uint64_t> seeds = seed_list(text);
  if (seeds.empty()) return false;
  for (const VariedOption& option : parts.varied) {
    if (option.name == kSeed) fail_input("option sweep.seeds: train.seed varies too; give the seeds in one of them");
  }
  VariedOption seed{kSeed, {}};
  for (const std::uint64_t value : seeds) seed.values.push_back(std::to_string(value));
  parts.varied.push_back(seed);
  parts.where[kSeed] = "sweep.seeds";
  return true;
}

}  // namespace

void declare(OptionTable& t, SweepConfig& c) {
  t.add("sweep.output", c.output, "", "Folder of the sweep: trials/, pictures/, results.csv, best.pt");
  t.add("sweep.seeds", c.seeds, "",
        "Train each combination once for each of these seeds, e.g. 0,1,2 (empty: train.seed alone)");
  t.add("sweep.pictures", c.pictures, "pictures",
        "Draw this many validation and this many test captions with the base and each trial (0: none)");
}

bool is_operational(const std::string& option) {
  static const std::set<std::string> names{
      "output", "train.resume_from_checkpoint", "train.stop_after", "train.trace", "train.trace_steps", "train.device"};
  return names.count(option) > 0;
}

std::vector<std::uint64_t> seed_list(const std::string& text) {
  std::vector<std::uint64_t> seeds;
  for (const std::string& piece : split_list(text, ',')) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(piece.data(), piece.data() + piece.size(), value);
    if (error != std::errc{} || end != piece.data() + piece.size()) {
      fail_input("option sweep.seeds: expected whole numbers separated by commas, found '", piece, "'");
    }
    if (std::find(seeds.begin(), seeds.end(), value) != seeds.end()) {
      fail_input("option sweep.seeds: ", value, " stands there twice");
    }
    seeds.push_back(value);
  }
  return seeds;
}

Grid expand_grid(const std::vector<OptionSetting>& settings) {
  const std::vector<OptionSetting> unique = without_repeats(settings);
  Grid grid;
  grid.sweep = read_sweep_options(unique);
  Parts parts = separate(unique);
  const bool seeded = add_seeds(parts, grid.sweep.seeds);
  const std::size_t size = grid_size(parts.varied);
  for (std::size_t index = 0; index < size; ++index) {
    Trial trial = make_trial(parts, choice_of(index, parts.varied));
    trial.number = static_cast<std::int64_t>(index);
    if (seeded) trial.varied.pop_back();
    grid.trials.push_back(std::move(trial));
  }
  expect_distinct(grid.trials);
  grid.varied = std::move(parts.varied);
  if (seeded) grid.varied.pop_back();
  return grid;
}

}  // namespace ldmtune::sweep
