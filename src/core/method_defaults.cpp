// Defaults that differ by method.

#include "core/config.h"

namespace ldmtune {
namespace {

struct MethodDefault {
  const char *method, *option, *text;
};

constexpr MethodDefault kMethodDefaults[] = {
    // AUTOMATIC1111's. Decay would pull the new word towards a vector that means nothing.
    {"textual_inversion", "optim.learning_rate", "5e-3"},
    {"textual_inversion", "optim.adam_weight_decay", "0"},
    // diffusers'. All weights move together: what suits a small adapter wrecks them.
    {"dreambooth", "optim.learning_rate", "5e-6"},
};

}  // namespace

void apply_method_defaults(OptionTable& table, const TrainConfig& config) {
  for (const MethodDefault& entry : kMethodDefaults) {
    if (config.method == entry.method) table.set_default(entry.option, entry.text);
  }
}

}  // namespace ldmtune
