#include "adapt/hypernetwork_network.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include "adapt/dropout.h"
#include "adapt/hypernetwork_layout.h"

namespace ldmtune::adapt {

HypernetworkNetwork::HypernetworkNetwork(const HypernetworkSpec& spec, const optim::Arena& arena, std::int64_t width,
                                         const std::string& role) {
  for (const SequentialModule& module : sequential_modules(spec, width)) {
    const std::string name = module_name(width, role, module.index);
    if (module.kind == ModuleKind::linear) stages_.emplace_back();
    Stage& stage = stages_.back();
    switch (module.kind) {
      case ModuleKind::linear:
        stage.weight = arena.parameter(name + ".weight");
        stage.bias = arena.parameter(name + ".bias");
        break;
      case ModuleKind::activation:
        stage.activation = find_activation(spec.activation);
        break;
      case ModuleKind::layer_norm:
        stage.norm_weight = arena.parameter(name + ".weight");
        stage.norm_bias = arena.parameter(name + ".bias");
        break;
      case ModuleKind::dropout:
        stage.dropout = module.dropout;
        stage.dropout_name = name;
        break;
    }
  }
}

at::Tensor HypernetworkNetwork::forward(const at::Tensor& x, const ForwardContext& context, std::uint32_t layer) const {
  // Under autocast too: steps of 1e-5 vanish in bf16.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::Tensor input = x.to(at::kFloat);
  at::Tensor y = input;
  for (const Stage& stage : stages_) {
    y = at::linear(y, stage.weight, stage.bias);
    if (stage.activation != nullptr) y = stage.activation(y);
    if (stage.norm_weight.defined())
      y = at::layer_norm(y, stage.norm_weight.sizes(), stage.norm_weight, stage.norm_bias);
    if (stage.dropout > 0 && context.training) {
      const DropoutKey key{context.seed, stage.dropout_name, layer, context.dataset};
      y = y * dropout_mask(y.sizes(), stage.dropout, key, context.draws).to(y.device());
    }
  }
  return at::add(input, y, context.strength).to(x.scalar_type());
}

}  // namespace ldmtune::adapt
