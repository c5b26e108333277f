#include "adapt/hypernetwork.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "adapt/hypernetwork_layout.h"
#include "adapt/hypernetwork_network.h"
#include "core/error.h"
#include "core/options.h"

namespace ldmtune::adapt {

namespace {

template <class Names>
std::string joined(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + cat(name);
  return text;
}

void check_name(const std::string& option, const std::string& value, const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), value) == names.end())
    fail_input(option, ": expected one of ", joined(names), ", found '", value, "'");
}

std::set<std::int64_t> chosen_widths(const std::vector<double>& asked, const std::set<std::int64_t>& base_widths) {
  if (asked.empty()) return base_widths;
  std::set<std::int64_t> widths;
  for (double number : asked) {
    const bool whole = std::isfinite(number) && std::abs(number) < 1e9 && number == std::floor(number);
    if (!whole || base_widths.count(static_cast<std::int64_t>(number)) == 0)
      fail_input("hypernetwork.widths: this base's attention layers read contexts of width ", joined(base_widths),
                 ", found ", format_number(number));
    widths.insert(static_cast<std::int64_t>(number));
  }
  return widths;
}

/// k and v of one width.
struct NetworkPair {
  HypernetworkNetwork key, value;
};

class HypernetworkHooks final : public model::ModelHooks {
 public:
  HypernetworkHooks(const HypernetworkSpec& spec, const optim::Arena& arena, ForwardContext context)
      : context_(std::move(context)) {
    for (std::int64_t width : spec.widths)
      networks_.emplace(width, NetworkPair{{spec, arena, width, "k"}, {spec, arena, width, "v"}});
  }

  void begin_forward() override { text_.clear(); }

  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite& site) override {
    const auto found = networks_.find(context.size(-1));
    if (found == networks_.end()) return {context, context};
    if (!site.is_cross) return evaluate(found->second, context, static_cast<std::uint32_t>(site.layer_index + 1));
    CachedText& cached = text_[found->first];
    if (!cached.context.is_same(context)) cached = {context, evaluate(found->second, context, 0)};
    return cached.result;
  }

 private:
  model::KeyValueContext evaluate(const NetworkPair& pair, const at::Tensor& x, std::uint32_t layer) const {
    return {pair.key.forward(x, context_, layer), pair.value.forward(x, context_, layer)};
  }

  /// Holds the tensor it was computed from, so that no other one can take its place in memory.
  struct CachedText {
    at::Tensor context;
    model::KeyValueContext result;
  };
  ForwardContext context_;
  std::map<std::int64_t, NetworkPair> networks_;
  std::map<std::int64_t, CachedText> text_;
};

}  // namespace

HypernetworkSpec HypernetworkSpec::from_config(const HypernetworkConfig& config,
                                               const std::set<std::int64_t>& base_widths) {
  HypernetworkSpec spec;
  spec.layer_structure = config.layer_structure;
  spec.activation = config.activation;
  spec.weight_init = config.weight_init;
  spec.layer_norm = config.layer_norm;
  spec.layer_norm_init = config.layer_norm_init;
  spec.activate_output = config.activate_output;
  spec.dropout_structure = config.dropout_structure;
  spec.widths = chosen_widths(config.widths, base_widths);
  check_spec(spec, "hypernetwork.");
  check_name("hypernetwork.weight_init", spec.weight_init, weight_init_names());
  check_name("hypernetwork.layer_norm_init", spec.layer_norm_init, layer_norm_init_names());
  if (!spec.dropout_structure.empty() && spec.dropout_structure.front() != 0)
    fail_input("hypernetwork.dropout_structure: entry i follows layer i, so the first must be 0, found ",
               format_number(spec.dropout_structure.front()));
  return spec;
}

Hypernetwork::Hypernetwork(HypernetworkSpec spec) : spec_(std::move(spec)) { check_spec(spec_, "hypernetwork."); }

std::vector<optim::ParameterSpec> Hypernetwork::parameters() const {
  std::vector<optim::ParameterSpec> specs;
  for (std::int64_t width : spec_.widths)
    for (const std::string role : kRoles)
      for (const SequentialModule& module : sequential_modules(spec_, width)) {
        if (!module.has_weights()) continue;
        const std::string name = module_name(width, role, module.index);
        specs.push_back({name + ".weight", module.weight_shape(), "hypernetwork"});
        specs.push_back({name + ".bias", {module.out}, "hypernetwork"});
      }
  return specs;
}

std::unique_ptr<model::ModelHooks> Hypernetwork::hooks(const optim::Arena& arena, ForwardContext context) const {
  return std::make_unique<HypernetworkHooks>(spec_, arena, std::move(context));
}

at::Tensor Hypernetwork::apply(const optim::Arena& arena, std::int64_t width, const std::string& role,
                               const at::Tensor& x, const ForwardContext& context,
                               std::uint32_t attention_layer_index) const {
  return HypernetworkNetwork(spec_, arena, width, role).forward(x, context, attention_layer_index);
}

}  // namespace ldmtune::adapt
