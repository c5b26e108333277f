#include "adapt/init_from.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <set>

#include "adapt/hypernetwork_layout.h"
#include "adapt/lora_file.h"
#include "core/error.h"
#include "core/log.h"
#include "core/options.h"

namespace ldmtune::adapt {
namespace {

template <class Numbers>
std::string list_of(const Numbers& numbers) {
  std::string text;
  for (const auto number : numbers) text += (text.empty() ? "" : ",") + format_number(static_cast<double>(number));
  return text;
}

std::string text_of(bool value) { return value ? "true" : "false"; }

/// "--hypernetwork.layer_structure 1,2,1 --hypernetwork.activation swish ..."
std::string as_arguments(const JobOptions& options) {
  std::string text;
  for (const auto& [name, value] : options) {
    const bool quotes = value.find(' ') != std::string::npos || value.empty();
    text += (text.empty() ? "--" : " --") + name + " " + (quotes ? "\"" + value + "\"" : value);
  }
  return text;
}

std::vector<SequentialModule> weighted_modules(const HypernetworkSpec& spec, std::int64_t width) {
  std::vector<SequentialModule> modules = sequential_modules(spec, width);
  std::erase_if(modules, [](const SequentialModule& module) { return !module.has_weights(); });
  return modules;
}

/// Activations count only where there is one.
bool activates_output(const HypernetworkSpec& spec) { return spec.activate_output && spec.activation != "linear"; }

void expect_same_networks(const HypernetworkSpec& own, const HypernetworkSpec& found,
                          const std::filesystem::path& file) {
  const auto expect = [&](bool same, const char* option, const std::string& wanted, const std::string& is) {
    if (same) return;
    fail_input("option hypernetwork.init_from: the networks of ", file.string(), " have ", option, " = ", is,
               ", this run's ", wanted, "; train on with ", as_arguments(job_options(found)));
  };
  expect(own.layer_structure == found.layer_structure, "layer_structure", list_of(own.layer_structure),
         list_of(found.layer_structure));
  expect(own.activation == found.activation, "activation", own.activation, found.activation);
  expect(own.layer_norm == found.layer_norm, "layer_norm", text_of(own.layer_norm), text_of(found.layer_norm));
  expect(activates_output(own) == activates_output(found), "activate_output", text_of(own.activate_output),
         text_of(found.activate_output));
}

void expect_same_widths(const std::set<std::int64_t>& own, const std::set<std::int64_t>& found,
                        const std::set<std::int64_t>& of_base, const std::filesystem::path& file) {
  std::set<std::int64_t> usable, unusable;
  for (const std::int64_t width : found) (of_base.count(width) > 0 ? usable : unusable).insert(width);
  if (usable.empty()) {
    fail_input("option hypernetwork.init_from: ", file.string(), " was made for another base: its networks are for ",
               "contexts of width ", list_of(found), ", this base's are ", list_of(of_base), " wide");
  }
  if (own != usable) {
    fail_input("option hypernetwork.init_from: ", file.string(), " has networks for contexts of width ",
               list_of(usable), ", this run trains ", list_of(own), "; give --hypernetwork.widths ", list_of(usable));
  }
  if (!unusable.empty()) {
    LDMTUNE_LOG(warning) << file.string() << ": its networks of width " << list_of(unusable)
                         << " have no use in this base and are left out";
  }
}

/// Values that several layers share, each once.
template <class Value>
std::set<Value> values_of(const std::vector<LoraModule>& modules, Value LoraModule::*member) {
  std::set<Value> values;
  for (const LoraModule& module : modules) values.insert(module.*member);
  return values;
}

void expect_same_scale(const Lora& own, const Lora& found, const std::filesystem::path& file) {
  const std::set<std::int64_t> ranks = values_of(found.modules(), &LoraModule::rank);
  const std::set<double> alphas = values_of(found.modules(), &LoraModule::alpha);
  if (ranks.size() > 1 || alphas.size() > 1) {
    fail_input("option lora.init_from: the layers of ", file.string(), " have ranks ", list_of(ranks), " and alphas ",
               list_of(alphas), "; training takes one of each. --base.merge ", file.string(),
               " adds it to the base, to train over it");
  }
  const LoraModule& first = own.modules().front();
  if (*ranks.begin() == first.rank && *alphas.begin() == first.alpha) return;
  fail_input("option lora.init_from: ", file.string(), " has rank ", *ranks.begin(), " and alpha ",
             format_number(*alphas.begin()), ", this run ", first.rank, " and ", format_number(first.alpha),
             "; give --lora.rank ", *ranks.begin(), " --lora.alpha ", format_number(*alphas.begin()));
}

std::set<std::string> layers_of(const Lora& lora) {
  std::set<std::string> names;
  for (const LoraModule& module : lora.modules()) names.insert(module.site.full_name());
  return names;
}

void expect_same_layers(const Lora& own, const Lora& found, const std::vector<LoraSite>& sites,
                        const std::filesystem::path& file) {
  const std::set<std::string> wanted = layers_of(own), there = layers_of(found);
  if (wanted == there) return;
  std::vector<std::string> only_wanted, only_there;
  std::set_difference(wanted.begin(), wanted.end(), there.begin(), there.end(), std::back_inserter(only_wanted));
  std::set_difference(there.begin(), there.end(), wanted.begin(), wanted.end(), std::back_inserter(only_there));
  std::string what;
  if (!only_wanted.empty())
    what = cat("lacks ", only_wanted.size(), " layers that this run trains, such as ", only_wanted[0]);
  if (!only_there.empty()) {
    what += cat(what.empty() ? "" : " and ", "has ", only_there.size(),
                " layers that this run does not train, such as ", only_there[0]);
  }
  fail_input("option lora.init_from: ", file.string(), " ", what, "; train on with ",
             as_arguments(job_options(found, sites)));
}

/// Both rounded to fp16, or to what the base computes in.
bool equal_but_for_rounding(const at::Tensor& own, const at::Tensor& values) {
  const at::ScalarType type = own.scalar_type() == at::kFloat ? at::kHalf : own.scalar_type();
  return at::equal(own.to(at::kCPU, type), values.to(at::kCPU, type));
}

}  // namespace

JobOptions job_options(const HypernetworkSpec& spec) {
  JobOptions options{{"hypernetwork.layer_structure", list_of(spec.layer_structure)},
                     {"hypernetwork.activation", spec.activation},
                     {"hypernetwork.layer_norm", text_of(spec.layer_norm)},
                     {"hypernetwork.activate_output", text_of(spec.activate_output)},
                     {"hypernetwork.widths", list_of(spec.widths)}};
  if (!spec.dropout_structure.empty()) {
    options.emplace_back("hypernetwork.dropout_structure", list_of(spec.dropout_structure));
  }
  return options;
}

JobOptions job_options(const Lora& lora, const std::vector<LoraSite>& sites) {
  std::vector<LoraSite> unet, text;
  for (const LoraModule& module : lora.modules())
    (module.site.component == "unet" ? unet : text).push_back(module.site);
  const LoraModule& first = lora.modules().front();
  return {{"lora.rank", std::to_string(first.rank)},
          {"lora.alpha", format_number(first.alpha)},
          {"lora.target_modules", lora_targets(unet, sites)},
          {"lora.text_encoder_target_modules", lora_targets(text, sites)}};
}

void start_from_hypernetwork(const Hypernetwork& network, const optim::Arena& arena, const model::BaseModel& base,
                             const std::filesystem::path& file) {
  const at::NoGradGuard no_grad;
  const HypernetworkFile read = read_hypernetwork(file);
  const HypernetworkSpec &own = network.spec(), &found = read.network->spec();
  expect_same_networks(own, found, file);
  expect_same_widths(own.widths, found.widths, base.unet->context_widths(), file);
  for (const std::int64_t width : own.widths) {
    // Where the dropout is another, modules have other numbers.
    const auto from = weighted_modules(found, width), to = weighted_modules(own, width);
    for (const std::string role : kRoles) {
      for (std::size_t i = 0; i < to.size(); ++i) {
        for (const std::string kind : {".weight", ".bias"}) {
          arena.parameter(module_name(width, role, to[i].index) + kind)
              .detach()
              .copy_(read.arena->parameter(module_name(width, role, from[i].index) + kind));
        }
      }
    }
  }
}

void start_from_lora(const Lora& lora, const optim::Arena& arena, const model::BaseModel& base,
                     const std::filesystem::path& file) {
  const at::NoGradGuard no_grad;
  const std::vector<LoraSite> sites = lora_sites(base);
  const LoraFile read = read_lora(file, sites);
  expect_hooks(*read.lora, file);
  expect_same_scale(lora, *read.lora, file);
  expect_same_layers(lora, *read.lora, sites, file);
  for (const auto& [name, values] : read.arena->parameter_views()) arena.parameter(name).detach().copy_(values);
}

void start_from_weights(const Dreambooth& dreambooth, const optim::Arena& arena, const model::BaseModel& base,
                        const store::TensorMap& weights, const std::string& source) {
  const at::NoGradGuard no_grad;
  std::set<std::string> trained;
  for (const BaseWeight& weight : dreambooth.weights()) trained.insert(weight.full_name());
  for (const auto& [name, values] : weights) {
    const at::Tensor& own = weight_of(base, name, values, source);
    if (trained.count(name) > 0) {
      arena.parameter(name).detach().copy_(values);
    } else if (!equal_but_for_rounding(own, values)) {
      fail_input(
          "option dreambooth.init_from: ", name, " of ", source, " is not the base's and does not train here; ",
          "train it too (dreambooth.train_unet, dreambooth.train_text_encoder), or give the whole model as base");
    }
  }
}

}  // namespace ldmtune::adapt
