// Writes LoRA files in the layouts of diffusers and kohya.

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "adapt/lora_file.h"
#include "adapt/lora_keys.h"
#include "core/error.h"
#include "core/options.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {

namespace {

using nlohmann::json;

/// The value that most modules have.
template <class Value>
Value most_common(const std::vector<const LoraModule*>& modules, Value LoraModule::*member) {
  std::map<Value, std::size_t> counts;
  for (const LoraModule* module : modules) ++counts[module->*member];
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first;
}

/// A layer's name as it ends both with and without the prefix that transformers 5 leaves out.
std::string peft_name(const LoraModule& module) {
  const std::string prefix = "text_model.";
  const std::string& name = module.site.name;
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

/// PEFT's LoraConfig of each component, from which diffusers makes the layers it loads the tensors into.
json peft_settings(const std::vector<LoraModule>& modules) {
  std::map<std::string, std::vector<const LoraModule*>> components;
  for (const LoraModule& module : modules) components[module.site.component].push_back(&module);
  json settings = json::object();
  for (const auto& [component, own] : components) {
    const std::int64_t rank = most_common(own, &LoraModule::rank);
    const double alpha = most_common(own, &LoraModule::alpha);
    json names = json::array(), ranks = json::object(), alphas = json::object();
    for (const LoraModule* module : own) {
      names.push_back(peft_name(*module));
      if (module->rank != rank) ranks[peft_name(*module)] = module->rank;
      if (module->alpha != alpha) alphas[peft_name(*module)] = module->alpha;
    }
    settings[component + ".r"] = rank;
    settings[component + ".lora_alpha"] = alpha;
    settings[component + ".target_modules"] = std::move(names);
    settings[component + ".rank_pattern"] = std::move(ranks);
    settings[component + ".alpha_pattern"] = std::move(alphas);
  }
  return settings;
}

store::Metadata kohya_settings(const std::vector<LoraModule>& modules) {
  std::vector<const LoraModule*> all;
  for (const LoraModule& module : modules) all.push_back(&module);
  return {{"ss_network_module", "networks.lora"},
          {"ss_network_dim", std::to_string(most_common(all, &LoraModule::rank))},
          {"ss_network_alpha", format_number(most_common(all, &LoraModule::alpha))}};
}

store::TensorMap named_tensors(const Lora& lora, const optim::Arena& arena, LoraLayout layout) {
  const auto& modules = lora.modules();
  const bool two_text_encoders = std::any_of(modules.begin(), modules.end(), [](const LoraModule& module) {
    return module.site.component == "text_encoder_2";
  });
  store::TensorMap tensors;
  for (const LoraModule& module : modules) {
    const at::Tensor down = arena.parameter(module.down_name()).detach().cpu().contiguous();
    const at::Tensor up = arena.parameter(module.up_name()).detach().cpu().contiguous();
    if (layout == LoraLayout::diffusers) {
      tensors.emplace(module.down_name(), down);
      tensors.emplace(module.up_name(), up);
      continue;
    }
    const std::string name = kohya_name(module.site, two_text_encoders);
    tensors.emplace(name + ".lora_down.weight", down);
    tensors.emplace(name + ".lora_up.weight", up);
    tensors.emplace(name + ".alpha", at::scalar_tensor(module.alpha, at::kFloat));
  }
  return tensors;
}

}  // namespace

LoraLayout parse_lora_layout(const std::string& name) {
  if (name == "diffusers") return LoraLayout::diffusers;
  if (name == "kohya") return LoraLayout::kohya;
  fail_input("layout of a LoRA file: expected diffusers or kohya, found '", name, "'");
}

void write_lora(const Lora& lora, const optim::Arena& arena, const std::filesystem::path& file, LoraLayout layout,
                const Adapter::ExportInfo& info) {
  store::Metadata metadata{{"ldmtune_name", info.name.empty() ? file.stem().string() : info.name},
                           {"ldmtune_step", std::to_string(info.step)},
                           {"ldmtune_base_sha256", info.base_sha256},
                           {"ldmtune_base_name", info.base_name}};
  if (layout == LoraLayout::diffusers) {
    metadata["format"] = "pt";
    metadata["lora_adapter_metadata"] = peft_settings(lora.modules()).dump();
  } else {
    metadata.merge(kohya_settings(lora.modules()));
  }
  store::write_safetensors(file, named_tensors(lora, arena, layout), metadata);
}

}  // namespace ldmtune::adapt
