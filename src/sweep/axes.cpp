#include "sweep/axes.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/option_text.h"
#include "core/random.h"
#include "sweep/grid.h"
#include "sweep/guards.h"

namespace ldmtune::sweep {
namespace {

constexpr const char* kSeed = "train.seed";
constexpr const char* kSubsetSeed = "data.subset_seed";
constexpr std::int64_t kMostDraws = 10'000;

/// `function(arguments)` of a setting.
struct DrawText {
  std::string function, arguments;
};

/// Nothing for ordinary values; a quoted value is never a draw.
std::optional<DrawText> draw_text(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  if (first == std::string::npos || text[last] != ')') return std::nullopt;
  const std::size_t open = text.find('(');
  if (open == std::string::npos) return std::nullopt;
  const std::string function = text.substr(first, open - first);
  for (const char* known : {"uniform", "log_uniform", "integer", "choice"}) {
    if (function == known) return DrawText{function, text.substr(open + 1, last - open - 1)};
  }
  return std::nullopt;
}

/// Options whose own text is a list with bars.
bool is_list(const std::string& option) {
  return option == "sample.prompts" || option == "dreambooth.class_prompt" || option == "validation.adjacent_prompts";
}

std::string place_of(const OptionSetting& setting) { return "option " + setting.name + " (" + setting.where + ")"; }

std::array<double, 2> bounds_of(const DrawText& draw, const OptionSetting& setting) {
  const std::vector<std::string> pieces = split_list(draw.arguments, ',');
  std::array<double, 2> bounds{};
  bool good = pieces.size() == 2;
  for (std::size_t i = 0; good && i < 2; ++i) {
    char* end = nullptr;
    bounds[i] = std::strtod(pieces[i].c_str(), &end);
    good = !pieces[i].empty() && *end == '\0' && std::isfinite(bounds[i]);
  }
  if (!good || bounds[0] >= bounds[1] || (draw.function == "log_uniform" && bounds[0] <= 0)) {
    fail_input(place_of(setting), ": expected ", draw.function, "(lowest, highest)",
               draw.function == "log_uniform" ? " with a lowest above 0" : "", ", found '", setting.text, "'");
  }
  return bounds;
}

std::string rounded(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.3g", value);
  return format_number(std::strtod(text, nullptr));
}

std::string drawn_value(const DrawText& draw, const RandomStream& stream, const OptionSetting& setting) {
  if (draw.function == "choice") {
    const std::vector<std::string> values = split_list(draw.arguments, ';');
    if (values.size() < 2) fail_input(place_of(setting), ": expected choice(a; b; ...), found '", setting.text, "'");
    return quote_value(values[stream.integer(0, values.size())]);
  }
  const auto [low, high] = bounds_of(draw, setting);
  if (draw.function == "integer") {
    const auto span = static_cast<std::uint64_t>(std::floor(high) - std::ceil(low)) + 1;
    return std::to_string(static_cast<std::int64_t>(std::ceil(low)) +
                          static_cast<std::int64_t>(stream.integer(0, span)));
  }
  const double part = static_cast<double>(stream.uniform(0));
  if (draw.function == "uniform") return rounded(low + part * (high - low));
  return rounded(low * std::pow(high / low, part));
}

VariedOption draws_of(const OptionSetting& setting, const DrawText& draw, const SweepConfig& config) {
  if (config.draws < 1 || config.draws > kMostDraws) {
    fail_input(place_of(setting), ": '", setting.text, "' is a random draw; set sweep.draws to how many (1 to ",
               kMostDraws, ", found ", config.draws, "), or quote the value");
  }
  VariedOption option{setting.name, {}, setting.where, /*drawn=*/true};
  RandomStream stream{derive_seed(config.draw_seed, setting.name), Purpose::sweep_draw, 0, 0};
  for (std::int64_t i = 0; i < config.draws; ++i) {
    stream.draw = static_cast<std::uint64_t>(i);
    option.values.push_back(drawn_value(draw, stream, setting));
  }
  return option;
}

const VariedOption* find_option(const std::vector<VariedOption>& varied, const std::string& name) {
  const auto found =
      std::find_if(varied.begin(), varied.end(), [&](const auto& option) { return option.name == name; });
  return found == varied.end() ? nullptr : &*found;
}

/// Group of each option that changes with others.
std::map<std::string, std::size_t> zip_groups(const std::vector<VariedOption>& varied, const SweepConfig& config) {
  std::map<std::string, std::size_t> groups;
  std::size_t number = 0;
  for (const std::string& group : split_list(config.zip, '|')) {
    const VariedOption* first = nullptr;
    for (const std::string& name : split_list(group, ',')) {
      const VariedOption* option = find_option(varied, name);
      if (option == nullptr || option->drawn) {
        fail_input("option sweep.zip: expected options that hold alternatives, found ", name);
      }
      if (!groups.emplace(name, number).second) fail_input("option sweep.zip: ", name, " stands there twice");
      if (first != nullptr && option->values.size() != first->values.size()) {
        fail_input("option sweep.zip: expected as many alternatives of each, found ", first->values.size(), " of ",
                   first->name, " and ", option->values.size(), " of ", name);
      }
      if (first == nullptr) first = option;
    }
    ++number;
  }
  for (const VariedOption& option : varied) {
    if (option.drawn) groups[option.name] = number;
  }
  return groups;
}

void append(Axis& axis, const VariedOption& option) {
  axis.options.push_back(option.name);
  axis.values.resize(option.values.size());
  for (std::size_t i = 0; i < option.values.size(); ++i) axis.values[i].push_back(option.values[i]);
}

Axis seed_axis(const char* option, const std::vector<std::uint64_t>& seeds) {
  VariedOption values{option, {}, "", false};
  for (const std::uint64_t seed : seeds) values.values.push_back(std::to_string(seed));
  Axis axis;
  append(axis, values);
  return axis;
}

}  // namespace

std::vector<std::uint64_t> seed_list(const std::string& text, const std::string& option) {
  std::vector<std::uint64_t> seeds;
  for (const std::string& piece : split_list(text, ',')) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(piece.data(), piece.data() + piece.size(), value);
    if (error != std::errc{} || end != piece.data() + piece.size()) {
      fail_input("option ", option, ": expected whole numbers separated by commas, found '", piece, "'");
    }
    if (std::find(seeds.begin(), seeds.end(), value) != seeds.end()) {
      fail_input("option ", option, ": ", value, " stands there twice");
    }
    seeds.push_back(value);
  }
  return seeds;
}

VariedOption values_of(const OptionSetting& setting, const SweepConfig& config) {
  if (is_list(setting.name)) return {setting.name, {setting.text}, setting.where};
  if (const auto guarded = guarded_values(setting); !guarded.empty()) {
    VariedOption option{setting.name, {}, setting.where};
    for (const GuardedValue& value : guarded) {
      option.values.push_back(value.text);
      option.conditions.push_back(value.condition);
    }
    return option;
  }
  if (const auto draw = draw_text(setting.text)) return draws_of(setting, *draw, config);
  std::vector<std::string> values = split_list(setting.text, '|');
  if (values.size() < 2) return {setting.name, {setting.text}, setting.where};
  for (std::string& value : values) value = quote_value(value);
  return {setting.name, values, setting.where};
}

std::vector<Axis> make_axes(const std::vector<VariedOption>& varied, const SweepConfig& config) {
  const std::map<std::string, std::size_t> groups = zip_groups(varied, config);
  std::map<std::size_t, std::size_t> place;  // of a group among the axes
  std::vector<Axis> axes;
  for (const VariedOption& option : varied) {
    const auto group = groups.find(option.name);
    const auto known = group == groups.end() ? place.end() : place.find(group->second);
    if (known == place.end()) {
      if (group != groups.end()) place[group->second] = axes.size();
      axes.emplace_back();
      append(axes.back(), option);
    } else {
      append(axes[known->second], option);
    }
  }
  return axes;
}

std::vector<Axis> replicate_axes(const SweepConfig& config, const std::vector<VariedOption>& varied) {
  const auto seeds = seed_list(config.seeds, "sweep.seeds");
  const auto subsets = seed_list(config.subset_seeds, "sweep.subset_seeds");
  std::vector<Axis> axes;
  for (const auto& [option, list, own] :
       {std::tuple{kSubsetSeed, &subsets, "sweep.subset_seeds"}, {kSeed, &seeds, "sweep.seeds"}}) {
    if (list->empty()) continue;
    if (find_option(varied, option)) fail_input("option ", own, ": ", option, " varies too; give it in one of them");
    axes.push_back(seed_axis(option, *list));
  }
  if (config.replicates != "crossed" && config.replicates != "zipped") {
    fail_input("option sweep.replicates: expected crossed or zipped, found '", config.replicates, "'");
  }
  if (config.replicates == "crossed" || axes.size() < 2) return axes;
  if (seeds.size() != subsets.size()) {
    fail_input("option sweep.replicates: zipped needs as many sweep.seeds as sweep.subset_seeds, found ", seeds.size(),
               " and ", subsets.size());
  }
  Axis both = axes[0];
  both.options.push_back(kSeed);
  for (std::size_t i = 0; i < seeds.size(); ++i) both.values[i].push_back(std::to_string(seeds[i]));
  return {both};
}

}  // namespace ldmtune::sweep
