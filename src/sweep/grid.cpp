#include "sweep/grid.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "store/files.h"
#include "sweep/guards.h"

namespace ldmtune::sweep {
namespace {

constexpr std::size_t kLargestGrid = 10'000;

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
  if (config.picture_trials < 0) {
    fail_input("option sweep.picture_trials: expected 0 (all) or above, found ", config.picture_trials);
  }
  return config;
}

/// The settings that do not vary, those that do, and how.
struct Parts {
  std::vector<OptionSetting> fixed;
  std::vector<VariedOption> varied;
  std::vector<Axis> axes;  ///< of the varied options, then of the replicates
  std::vector<Condition> conditions;
};

void separate(Parts& parts, const std::vector<OptionSetting>& settings, const SweepConfig& config) {
  for (const OptionSetting& setting : settings) {
    if (belongs_to_sweep(setting.name)) continue;
    const VariedOption option = values_of(setting, config);
    if (option.values.size() == 1 && !option.drawn && option.conditions.empty()) {
      parts.fixed.push_back(setting);
      continue;
    }
    if (is_operational(setting.name)) {
      fail_input("option ", setting.name, " (", setting.where, "): expected one value, found ", option.values.size(),
                 " alternatives; it does not change what is trained");
    }
    parts.varied.push_back(option);
  }
}

bool is_guarded(const Parts& parts, const std::string& option) {
  return std::any_of(parts.varied.begin(), parts.varied.end(),
                     [&](const auto& one) { return one.name == option && !one.conditions.empty(); });
}

/// A condition of an alternative may not be about what is decided after it.
void check_guards(const Parts& parts) {
  const auto guarded = [&](const std::string& name) { return is_guarded(parts, name); };
  for (const Condition& condition : parts.conditions) {
    if (guarded(condition.option) || guarded(condition.referent)) {
      fail_input("option sweep.conditions: an alternative of ",
                 guarded(condition.option) ? condition.option : condition.referent,
                 " has a condition of its own; say all of it there");
    }
  }
  for (const VariedOption& option : parts.varied) {
    for (const auto& condition : option.conditions) {
      if (condition && guarded(condition->referent)) {
        fail_input("option ", option.name, " (", option.where, "): depends on ", condition->referent,
                   ", whose alternatives have conditions themselves");
      }
    }
  }
}

Parts read_parts(const std::vector<OptionSetting>& settings, const SweepConfig& config) {
  Parts parts;
  separate(parts, settings, config);
  parts.axes = make_axes(parts.varied, config);
  for (Axis& axis : replicate_axes(config, parts.varied)) parts.axes.push_back(std::move(axis));
  parts.conditions = read_conditions(config.conditions);
  for (const std::string& name : conditioned_options(parts.conditions)) {
    const auto is_it = [&](const auto& setting) { return setting.name == name; };
    if (std::none_of(parts.fixed.begin(), parts.fixed.end(), is_it) &&
        std::none_of(parts.varied.begin(), parts.varied.end(), is_it)) {
      fail_input("option sweep.conditions: ", name, " is given nowhere, so its condition says nothing");
    }
  }
  check_guards(parts);
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

/// What this combination sets, in the order of the settings.
std::vector<OptionSetting> chosen_settings(const Parts& parts, const std::vector<std::size_t>& choice) {
  std::vector<OptionSetting> chosen = parts.fixed;
  for (std::size_t i = 0; i < choice.size(); ++i) {
    const Axis& axis = parts.axes[i];
    for (std::size_t j = 0; j < axis.options.size(); ++j) {
      chosen.push_back({axis.options[j], axis.values[choice[i]][j], "[sweep]"});
    }
  }
  for (OptionSetting& setting : chosen) {
    for (const VariedOption& option : parts.varied) {
      if (option.name == setting.name) setting.where = option.where;
    }
  }
  return chosen;
}

/// Which of an option's alternatives this combination takes.
std::size_t chosen_place(const Parts& parts, const std::vector<std::size_t>& choice, const std::string& option) {
  for (std::size_t i = 0; i < choice.size(); ++i) {
    const std::vector<std::string>& options = parts.axes[i].options;
    if (std::find(options.begin(), options.end(), option) != options.end()) return choice[i];
  }
  return 0;
}

/// Sets the options whose alternatives have conditions. False where another combination stands for this one.
bool set_guarded(const Parts& parts, const std::vector<std::size_t>& choice, OptionTable& table, Trial& trial) {
  std::vector<OptionSetting> settings;
  for (const VariedOption& option : parts.varied) {
    if (option.conditions.empty()) continue;
    const std::size_t place = chosen_place(parts, choice, option.name);
    const Choice verdict = choose(option.conditions, place, table);
    if (verdict == Choice::skip) return false;
    if (verdict == Choice::inactive) trial.inactive.insert(option.name);
    if (verdict == Choice::set) settings.push_back({option.name, option.values[place], option.where});
  }
  table.set(settings);
  return true;
}

/// None where another combination stands for this one.
std::optional<Trial> make_trial(const Parts& parts, const std::vector<std::size_t>& choice) {
  Trial trial;
  OptionTable table;
  ldmtune::declare(table, trial.config);
  const std::vector<OptionSetting> chosen = chosen_settings(parts, choice);
  const std::vector<std::string> conditioned = conditioned_options(parts.conditions);
  for (const OptionSetting& setting : chosen) {
    if (std::find(conditioned.begin(), conditioned.end(), setting.name) == conditioned.end() &&
        !is_guarded(parts, setting.name)) {
      table.set(setting);
    }
  }
  for (const std::string& name : conditioned) {
    const auto setting = std::find_if(chosen.begin(), chosen.end(), [&](const auto& one) { return one.name == name; });
    if (holds(parts.conditions, name, table)) {
      table.set(*setting);
    } else {
      trial.inactive.insert(name);
    }
  }
  if (!set_guarded(parts, choice, table, trial)) return std::nullopt;
  apply_method_defaults(table, trial.config);
  for (const VariedOption& option : parts.varied) trial.varied.emplace_back(option.name, table.text_of(option.name));
  trial.resolved = identity_text(table);
  trial.id = store::sha256_text(trial.resolved).substr(0, 8);
  return trial;
}

/// Choice number `index` of the grid: the last axis changes fastest.
std::vector<std::size_t> choice_of(std::size_t index, const std::vector<Axis>& axes) {
  std::vector<std::size_t> choice(axes.size());
  for (std::size_t i = axes.size(); i-- > 0;) {
    choice[i] = index % axes[i].values.size();
    index /= axes[i].values.size();
  }
  return choice;
}

std::size_t grid_size(const std::vector<Axis>& axes) {
  std::size_t size = 1;
  for (const Axis& axis : axes) {
    size *= axis.values.size();
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

/// Takes the trial unless it is there already because a condition or a draw made it equal to another.
/// Errors: InputError where the settings repeat it.
void take(std::vector<Trial>& trials, std::map<std::string, std::size_t>& seen, Trial trial, bool drawn) {
  const auto [other, added] = seen.emplace(trial.id, trials.size());
  if (added) {
    trial.number = static_cast<std::int64_t>(trials.size());
    trials.push_back(std::move(trial));
  } else if (trial.inactive.empty() && !drawn) {
    fail_input("trials ", other->second, " and ", trials.size(), " of the sweep are the same (", describe(trial),
               "); leave out the repeated alternative");
  }
}

}  // namespace

void declare(OptionTable& t, SweepConfig& c) {
  t.add("sweep.output", c.output, "", "Folder of the sweep: trials/, pictures/, results.csv, best.pt");
  t.add("sweep.seeds", c.seeds, "",
        "Train each combination once for each of these seeds, e.g. 0,1,2 (empty: train.seed alone)");
  t.add("sweep.subset_seeds", c.subset_seeds, "",
        "And once for each of these draws of data.subset (over data.subset_seed)");
  t.add("sweep.replicates", c.replicates, "",
        "crossed: every seed with every subset draw; zipped: the first with the first ...");
  t.add("sweep.zip", c.zip, "",
        "Options that change together instead of being combined, \"a, b | c, d\": a with b, and c with d");
  t.add("sweep.conditions", c.conditions, "",
        "Options that count only where another has such a value, \"hypernetwork.layer_norm_init if "
        "hypernetwork.layer_norm = true | a if b = c or d\"; elsewhere they stand at their default");
  t.add(
      "sweep.draws", c.draws, "draws",
      "How often options given as log_uniform(a, b), uniform(a, b), integer(a, b) or choice(a; b) are drawn, together");
  t.add("sweep.draw_seed", c.draw_seed, "", "Seed of these draws; more draws leave the earlier ones as they are");
  t.add("sweep.pictures", c.pictures, "pictures",
        "Draw this many validation and this many test captions with the base and the trials (0: none)");
  t.add("sweep.picture_trials", c.picture_trials, "trials",
        "Draw them with the best replicate of each setting, settings by their mean held-out loss, then with further "
        "replicates; so many trials in all (0: all)");
  t.add("sweep.strengths", c.strengths, "",
        "Measure the best trial of each method (of each combination of all but the learning rate) at these strengths "
        "too, e.g. 0,0.25,0.5,0.75,1: 0 is the untouched base, 1 as trained (empty: none)");
  t.add("sweep.tflops_per_s", c.tflops_per_s, "TFLOP/s",
        "Speed of one rank, to estimate times with (0: from finished trials, else measured here)");
  t.add("sweep.halving_factor", c.halving_factor, "",
        "Successive halving: of the settings at a rung, the best 1/factor by held-out loss train on (0: all do)");
  t.add("sweep.halving_min_steps", c.halving_min_steps, "updates",
        "The first rung; the next ones are at factor times as many, the last trials train to their end");
}

bool is_operational(const std::string& option) {
  static const std::set<std::string> names{
      "output", "train.resume_from_checkpoint", "train.stop_after", "train.trace", "train.trace_steps", "train.device"};
  return names.count(option) > 0;
}

Grid expand_grid(const std::vector<OptionSetting>& settings) {
  const std::vector<OptionSetting> unique = without_repeats(settings);
  Grid grid;
  grid.sweep = read_sweep_options(unique);
  Parts parts = read_parts(unique, grid.sweep);
  const bool drawn = std::any_of(parts.varied.begin(), parts.varied.end(), [](const auto& one) { return one.drawn; });
  if (grid.sweep.draws > 0 && !drawn) {
    fail_input(
        "option sweep.draws: no option is drawn; give one as log_uniform(a, b), uniform(a, b), integer(a, b) or ",
        "choice(a; b)");
  }
  std::map<std::string, std::size_t> seen;
  const std::size_t size = grid_size(parts.axes);
  for (std::size_t index = 0; index < size; ++index) {
    if (auto trial = make_trial(parts, choice_of(index, parts.axes))) take(grid.trials, seen, std::move(*trial), drawn);
  }
  grid.varied = std::move(parts.varied);
  grid.conditions = std::move(parts.conditions);
  return grid;
}

}  // namespace ldmtune::sweep
