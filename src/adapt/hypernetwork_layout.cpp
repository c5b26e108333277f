#include "adapt/hypernetwork_layout.h"

#include <algorithm>
#include <cmath>

#include "adapt/activations.h"
#include "core/error.h"
#include "core/options.h"

namespace ldmtune::adapt {

namespace {

constexpr std::size_t kMaxStructure = 256;
constexpr double kMaxFeatures = 1 << 20;

std::string list_text(const std::vector<double>& values) {
  std::string text;
  for (double value : values) text += (text.empty() ? "" : ", ") + format_number(value);
  return "'" + text + "'";
}

void check_structure(const HypernetworkSpec& spec, const std::string& name) {
  const auto& structure = spec.layer_structure;
  if (structure.size() < 2 || structure.size() > kMaxStructure)
    fail_input(name, ": expected 2 to ", kMaxStructure, " multipliers such as '1, 2, 1', found ", structure.size());
  for (double multiplier : structure)
    if (!std::isfinite(multiplier) || multiplier <= 0)
      fail_input(name, ": multipliers must be positive numbers, found ", list_text(structure));
  if (structure.front() != 1 || structure.back() != 1)
    fail_input(name, ": must start and end with 1, because the result is added to the context, found ",
               list_text(structure));
  for (std::int64_t width : spec.widths) {
    if (width < 1) fail_input(name, ": a context width must be positive, found ", width);
    for (double multiplier : structure) {
      const double features = static_cast<double>(width) * multiplier;
      if (features < 1 || features > kMaxFeatures)
        fail_input(name, ": ", format_number(multiplier), " times the context width ", width, " must give 1 to ",
                   static_cast<std::int64_t>(kMaxFeatures), " features, found ", format_number(std::floor(features)));
    }
  }
}

void check_dropout(const HypernetworkSpec& spec, const std::string& name) {
  if (spec.dropout_structure.empty()) return;
  if (spec.dropout_structure.size() != spec.layer_structure.size())
    fail_input(name, ": expected one probability for each of the ", spec.layer_structure.size(),
               " entries of layer_structure, found ", list_text(spec.dropout_structure));
  for (double p : spec.dropout_structure)
    if (!(p >= 0 && p < 1))
      fail_input(name, ": probabilities must lie in [0, 1), found ", list_text(spec.dropout_structure));
}

}  // namespace

std::vector<std::int64_t> SequentialModule::weight_shape() const {
  if (kind == ModuleKind::linear) return {out, in};
  return {out};
}

std::vector<SequentialModule> sequential_modules(const HypernetworkSpec& spec, std::int64_t width) {
  std::vector<SequentialModule> modules;
  const auto features = [&](std::size_t stage) {
    return static_cast<std::int64_t>(static_cast<double>(width) * spec.layer_structure[stage]);
  };
  const std::size_t stages = spec.layer_structure.size() - 1;
  for (std::size_t i = 0; i < stages; ++i) {
    const std::int64_t in = features(i), out = features(i + 1);
    const bool last = i + 1 == stages;
    const auto add = [&](ModuleKind kind, std::int64_t from, double p = 0.0) {
      modules.push_back({kind, static_cast<std::int64_t>(modules.size()), from, out, p, last});
    };
    add(ModuleKind::linear, in);
    if (spec.activation != "linear" && (!last || spec.activate_output)) add(ModuleKind::activation, out);
    if (spec.layer_norm) add(ModuleKind::layer_norm, out);
    if (!spec.dropout_structure.empty() && spec.dropout_structure[i + 1] > 0)
      add(ModuleKind::dropout, out, spec.dropout_structure[i + 1]);
  }
  return modules;
}

std::string module_name(std::int64_t width, const std::string& role, std::int64_t index) {
  return std::to_string(width) + "." + role + ".linear." + std::to_string(index);
}

void check_spec(const HypernetworkSpec& spec, const std::string& prefix) {
  check_structure(spec, prefix + "layer_structure");
  check_dropout(spec, prefix + "dropout_structure");
  find_activation(spec.activation, prefix + "activation");
}

}  // namespace ldmtune::adapt
