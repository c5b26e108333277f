#include "adapt/counted_hooks.h"

#include "adapt/hypernetwork_layout.h"

namespace ldmtune::adapt {

using model::Counted;
using model::MemoryTape;

namespace {

constexpr double kF32 = 4;

bool keeps_result(const std::string& activation) {
  return activation == "relu" || activation == "sigmoid" || activation == "tanh";
}

}  // namespace

std::pair<Counted, Counted> CountedHypernetwork::attention_context(MemoryTape& tape, const Counted& context,
                                                                   std::int64_t width, bool is_cross) {
  if (spec_.widths.count(width) == 0) return {context, context};
  const auto both = [&] { return std::pair(apply(tape, context, width), apply(tape, context, width)); };
  if (!is_cross) return both();
  const auto found = text_.find(width);
  return found != text_.end() ? found->second : text_.emplace(width, both()).first->second;
}

Counted CountedHypernetwork::apply(MemoryTape& tape, const Counted& context, std::int64_t width) const {
  const Counted input = tape.cast(context, kF32);
  const double tokens = input.elements / static_cast<double>(width);
  Counted y = input;
  for (const SequentialModule& module : sequential_modules(spec_, width)) {
    const auto in = static_cast<double>(module.in), out = static_cast<double>(module.out);
    switch (module.kind) {
      case ModuleKind::linear:
        y = tape.linear(y, tokens * out, in * out, /*trains=*/true);
        break;
      case ModuleKind::activation:
        y = keeps_result(spec_.activation) ? tape.activation_keeping_result(y) : tape.activation(y);
        break;
      case ModuleKind::layer_norm:
        y = tape.norm(y, /*trains=*/true);
        break;
      case ModuleKind::dropout:
        y = tape.masked(y);
        break;
    }
  }
  return tape.cast(tape.add(y, input), context.element_size);
}

CountedLora::CountedLora(const Lora& lora, const std::string& component) {
  for (const LoraModule& module : lora.modules()) {
    if (module.site.component != component) continue;
    factors_.emplace(module.site.name,
                     Factors{static_cast<double>(module.site.weight_shape[1]),
                             static_cast<double>(module.site.weight_shape[0]), static_cast<double>(module.rank)});
  }
}

Counted CountedLora::linear(MemoryTape& tape, const Counted& input, const Counted& output, const std::string& name) {
  const auto found = factors_.find(name);
  if (found == factors_.end()) return output;
  const auto& [in, out, rank] = found->second;
  const double tokens = input.elements / in;
  const Counted narrow = tape.linear(tape.cast(input, kF32), tokens * rank, in * rank, /*trains=*/true);
  const Counted wide = tape.linear(narrow, tokens * out, rank * out, /*trains=*/true);
  return tape.cast(tape.add(tape.cast(output, kF32), wide), output.element_size);
}

Counted CountedEmbedding::token_embedding(MemoryTape& tape, const Counted& embedded) {
  return tape.masked(tape.tensor(embedded.elements, embedded.element_size, /*needs_gradient=*/true));
}

}  // namespace ldmtune::adapt
