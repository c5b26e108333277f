#include "sweep/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "adapt/dreambooth.h"
#include "adapt/hypernetwork.h"
#include "adapt/lora.h"
#include "adapt/textual_inversion.h"
#include "core/error.h"
#include "data/latent_dataset.h"
#include "data/sample_stream.h"
#include "model/base_outline.h"
#include "optim/schedule.h"
#include "store/files.h"
#include "sweep/cost.h"
#include "sweep/halving.h"
#include "sweep/pack_width.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;

/// `config[key]` as T, `absent` where the key is missing (diffusers' default). Errors: InputError naming file and key.
template <class T>
T value_or(const json& config, const std::string& key, T absent, const std::string& file) {
  const auto found = config.find(key);
  if (found == config.end()) return absent;
  try {
    return found->get<T>();
  } catch (const json::exception& error) {
    fail_input(file, ": key ", key, " has an unexpected value ", found->dump(), " (", error.what(), ")");
  }
}

bool has_cross_attention(const std::string& block_type) { return block_type.find("CrossAttn") != std::string::npos; }

/// InputErrors of `check` with the trial's name before them.
template <class Check>
void checked(const Trial& trial, const Check& check) {
  try {
    check();
  } catch (const InputError& error) {
    fail_input("trial ", trial.number, ": ", error.what());
  }
}

void check_trial(const TrainConfig& config, int ranks) {
  if (config.base.empty()) fail_input("option base: expected a base model's folder or file, found nothing");
  if (model::is_single_file(config.base)) model::expect_tokenizer(config.base, config.base_options.tokenizer);
  if (config.data.empty())
    fail_input("option data: expected a dataset folder written by ldmtune prepare, found nothing");
  for (const auto& folder : config.data) data::read_dataset_index(folder);
  const auto& adjacent = config.validation.adjacent;
  const bool is_drawn = !config.validation.adjacent_prompts.empty() && !std::filesystem::exists(adjacent);
  if (!adjacent.empty() && !is_drawn) data::read_dataset_index(adjacent);
  data::checked_leaves(config.train.global_batch_size, config.train.micro_batch_size, ranks);
  const optim::LearningRateSchedule schedule(config.optim.learning_rate, config.optim.lr_scheduler,
                                             config.optim.lr_warmup_steps, config.train.max_train_steps);
  const optim::PiecewiseSchedule norm(config.train.max_grad_norm, "train.max_grad_norm");
  const optim::PiecewiseSchedule value(config.train.max_grad_value, "train.max_grad_value");
  trainable_parameters(config);
}

/// 21_935_360 as "21,935,360".
std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<std::size_t>(i), ",");
  }
  return digits;
}

/// 5_400 as "1 h 30 min".
std::string duration(double seconds) {
  char text[48];
  if (seconds < 90) {
    std::snprintf(text, sizeof text, "%.0f s", seconds);
  } else if (seconds < 5400) {
    std::snprintf(text, sizeof text, "%.0f min", seconds / 60);
  } else {
    const auto minutes = static_cast<long long>(std::llround(seconds / 60));
    std::snprintf(text, sizeof text, "%lld h %02lld min", minutes / 60, minutes % 60);
  }
  return text;
}

std::string decimals(double value, const char* unit) {
  char text[48];
  std::snprintf(text, sizeof text, value < 10 ? "%.2f%s" : "%.0f%s", value, unit);
  return text;
}

/// Costs of trials; base and data are read once for all that share them.
class Costs {
 public:
  explicit Costs(int ranks = 1) : ranks_(ranks) {}

  TrialCost of(const Trial& trial) {
    const TrainConfig& config = trial.config;
    const std::string key =
        config.base.string() + '\n' + config.data.string() + '\n' + config.validation.adjacent.string();
    auto found = grounds_.find(key);
    if (found == grounds_.end()) {
      const model::UNetConfig unet = base_unet_config(config.base);
      found = grounds_.emplace(key, Ground{unet, data_size(config, unet)}).first;
    }
    return trial_cost(config, found->second.data, found->second.unet, ranks_);
  }

 private:
  struct Ground {
    model::UNetConfig unet;
    DataSize data;
  };
  int ranks_;
  std::map<std::string, Ground> grounds_;
};

/// Characters of UTF-8 text.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

bool varies(const Grid& grid, const std::string& option) {
  return std::any_of(grid.varied.begin(), grid.varied.end(), [&](const auto& one) { return one.name == option; });
}

std::string shown(const Trial& trial, const std::pair<std::string, std::string>& option) {
  if (trial.inactive.count(option.first)) return "–";
  return option.second.empty() ? "(none)" : option.second;
}

/// training_length, or the updates that a budget pays for.
std::string length_of(const TrainConfig& config, const TrialCost& cost) {
  return config.train.max_tflops > 0 ? std::to_string(cost.updates) : training_length(config);
}

json trial_entry(const Grid& grid, const Trial& trial, Costs& costs) {
  json options = json::object();
  for (const auto& [name, value] : trial.varied) options[name] = trial.inactive.count(name) ? json() : json(value);
  const TrialCost cost = costs.of(trial);
  return {{"trial", trial.number},
          {"id", trial.id},
          {"folder", "trials/" + trial_folder(grid.sweep.output, trial).filename().string()},
          {"options", options},
          {"seed", trial.config.train.seed},
          {"subset_seed", trial.config.data_options.subset_seed},
          {"trainable_parameters", trainable_parameters(trial.config)},
          {"tflops", cost.tflops()},
          {"memory_bytes", cost.bytes},
          {"length", length_of(trial.config, cost)}};
}

}  // namespace

std::set<std::int64_t> base_context_widths(const std::filesystem::path& base) {
  const auto [config, file] = model::read_network_config(base, "unet");
  if (!config.is_object()) fail_input(file, ": expected a JSON object");
  using Names = std::vector<std::string>;
  const auto channels = value_or<std::vector<std::int64_t>>(config, "block_out_channels", {320, 640, 1280, 1280}, file);
  const auto down =
      value_or<Names>(config, "down_block_types",
                      {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}, file);
  const auto up = value_or<Names>(
      config, "up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}, file);
  if (channels.empty() || down.size() != channels.size() || up.size() != channels.size()) {
    fail_input(file, ": expected as many down_block_types and up_block_types as block_out_channels");
  }
  std::set<std::int64_t> widths{value_or<std::int64_t>(config, "cross_attention_dim", 1280, file), channels.back()};
  for (std::size_t i = 0; i < channels.size(); ++i) {
    if (has_cross_attention(down[i]) || has_cross_attention(up[channels.size() - 1 - i])) widths.insert(channels[i]);
  }
  return widths;
}

std::vector<optim::ParameterSpec> planned_parameters(const TrainConfig& config) {
  if (config.method == "hypernetwork") {
    const auto widths = base_context_widths(config.base);
    return adapt::Hypernetwork(adapt::HypernetworkSpec::from_config(config.hypernetwork, widths)).parameters();
  }
  if (config.method == "lora") {
    return adapt::Lora::from_config(config.lora, adapt::lora_sites(config.base)).parameters();
  }
  if (config.method == "dreambooth") {
    return adapt::dreambooth_parameters(config.dreambooth, config.caption.clip_skip, config.base);
  }
  if (config.method == "textual_inversion") return adapt::planned_parameters(config.textual_inversion, config.base);
  fail_input("option method: expected hypernetwork, lora, textual_inversion or dreambooth, found '", config.method,
             "'");
}

std::int64_t trainable_parameters(const TrainConfig& config) {
  std::int64_t total = 0;
  for (const optim::ParameterSpec& parameter : planned_parameters(config)) {
    std::int64_t elements = 1;
    for (const std::int64_t extent : parameter.shape) elements *= extent;
    total += elements;
  }
  return total;
}

std::map<std::int64_t, double> parameters_by_width(const TrainConfig& config) {
  const adapt::Hypernetwork network(
      adapt::HypernetworkSpec::from_config(config.hypernetwork, base_context_widths(config.base)));
  std::map<std::int64_t, double> numbers;
  for (const optim::ParameterSpec& parameter : network.parameters()) {
    double elements = 1;
    for (const std::int64_t extent : parameter.shape) elements *= static_cast<double>(extent);
    numbers[std::strtoll(parameter.name.c_str(), nullptr, 10)] += elements;  // "768.k.linear.0.weight"
  }
  return numbers;
}

std::string training_length(const TrainConfig& config) {
  if (config.train.num_train_epochs > 0) return std::to_string(config.train.num_train_epochs) + " epochs";
  const optim::PiecewiseSchedule rate(config.optim.learning_rate, "optim.learning_rate");
  return std::to_string(
      std::min(config.train.max_train_steps, rate.last_update().value_or(config.train.max_train_steps)));
}

void check_trials(const std::vector<const Trial*>& trials, int ranks) {
  for (const Trial* trial : trials) {
    checked(*trial, [&] { check_trial(trial->config, ranks); });
  }
}

void check_ranks(const Grid& grid, int ranks) {
  const Trial* fewest = nullptr;
  std::int64_t leaves = 0;
  for (const Trial& trial : grid.trials) {
    const RunConfig& train = trial.config.train;
    std::int64_t own = 0;
    checked(trial, [&] { own = data::checked_leaves(train.global_batch_size, train.micro_batch_size, 1); });
    if (fewest == nullptr || own < leaves) fewest = &trial, leaves = own;
  }
  if (fewest == nullptr) return;
  const RunConfig& train = fewest->config.train;
  checked(*fewest, [&] { data::checked_leaves(train.global_batch_size, train.micro_batch_size, ranks); });
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  }
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string line, rule;
    for (std::size_t i = 0; i < rows[r].size(); ++i) {
      line += rows[r][i] + std::string(widths[i] - columns_of(rows[r][i]) + 2, ' ');
      rule += std::string(widths[i], '-') + "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) out += rule.substr(0, rule.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string plan_table(const Grid& grid, int ranks) {
  std::vector<std::string> head{"trial", "id"};
  for (const VariedOption& option : grid.varied) head.push_back(option.name);
  const bool draws_subsets = !grid.sweep.subset_seeds.empty() && !varies(grid, "data.subset_seed");
  if (draws_subsets) head.emplace_back("subset seed");
  head.insert(head.end(), {"seed", "trainable parameters", "steps", "TFLOP", "memory", "time"});
  std::vector<std::vector<std::string>> rows{head};
  Costs costs(ranks);
  const Speed speed = grid.trials.empty() ? Speed{} : estimate_speed(grid);
  double tflops = 0, largest = 0;
  for (const Trial& trial : grid.trials) {
    std::vector<std::string> row{std::to_string(trial.number), trial.id};
    for (const auto& varied : trial.varied) row.push_back(shown(trial, varied));
    checked(trial, [&] {
      const TrialCost cost = costs.of(trial);
      if (draws_subsets) row.push_back(std::to_string(trial.config.data_options.subset_seed));
      row.push_back(std::to_string(trial.config.train.seed));
      row.push_back(grouped(trainable_parameters(trial.config)));
      row.push_back(length_of(trial.config, cost));
      row.push_back(decimals(cost.tflops(), ""));
      row.push_back(decimals(cost.bytes * 1e-9, " GB"));
      row.push_back(duration(1e12 * cost.tflops() / speed.flops_per_s));
      tflops += cost.tflops();
      largest = std::max(largest, cost.bytes);
    });
    rows.push_back(row);
  }
  const std::string rungs = grid.sweep.halving_factor > 0 ? "\n" + rungs_table(grid, tflops) : "";
  return format_table(rows) + cat("\n", grid.trials.size(), " trials, ", decimals(tflops, " TFLOP"), ", about ",
                                  duration(1e12 * tflops / speed.flops_per_s), " of one rank at ",
                                  decimals(speed.flops_per_s * 1e-9, " GFLOP/s"), " (", speed.source, "); at most ",
                                  decimals(largest * 1e-9, " GB"), " of memory a rank.\n", rungs);
}

double planned_tflops(const Grid& grid) {
  double tflops = 0;
  Costs costs;
  for (const Trial& trial : grid.trials) checked(trial, [&] { tflops += costs.of(trial).tflops(); });
  return tflops;
}

void write_plan(const Grid& grid, std::optional<std::size_t> pack) {
  json varied = json::array();
  for (const VariedOption& option : grid.varied) varied.push_back(option.name);
  json trials = json::array();
  Costs costs;
  for (const Trial& trial : grid.trials) trials.push_back(trial_entry(grid, trial, costs));
  json conditions = json::object();
  for (const Condition& condition : grid.conditions) conditions[condition.option].push_back(condition.referent);
  json rungs = json::array();
  for (const Rung& rung : plan_rungs(grid)) {
    rungs.push_back({{"step", rung.step}, {"settings", rung.settings}, {"trials", rung.trials}});
  }
  for (const VariedOption& option : grid.varied) {
    std::set<std::string> referents;
    for (const auto& condition : option.conditions) {
      if (condition) referents.insert(condition->referent);
    }
    for (const std::string& referent : referents) conditions[option.name].push_back(referent);
  }
  const TrainConfig& first = grid.trials.front().config;
  std::filesystem::create_directories(grid.sweep.output);
  json plan{{"format", "ldmtune-sweep"},
            {"version", 1},
            {"base", first.base.string()},
            {"data", first.data.string()},
            {"adjacent", first.validation.adjacent.string()},
            {"varied", varied},
            {"conditions", conditions},
            {"rungs", rungs},
            {"trials", trials}};
  if (!pack) pack = recorded_width(grid);
  if (pack) plan["pack"] = *pack;
  store::write_json(grid.sweep.output / "sweep.json", plan);
}

}  // namespace ldmtune::sweep
