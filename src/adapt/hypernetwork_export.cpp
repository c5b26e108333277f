// Writes A1111's hypernetwork .pt (or the same as .safetensors): integer keys width -> (state dict of k, state dict of
// v), then the settings.

#include <algorithm>

#include "adapt/hypernetwork_layout.h"
#include "adapt/hypernetwork_safetensors.h"
#include "core/error.h"
#include "store/torch_file.h"

namespace ldmtune::adapt {

namespace {

store::PyList list_of(const std::vector<double>& values) {
  store::PyList list;
  for (double value : values) list.items.emplace_back(value);
  return list;
}

store::PyValue text_or_none(const std::string& text) { return text.empty() ? store::PyValue() : store::PyValue(text); }

/// Names as the spec that is written numbers them, tensors as the arena's spec does: without dropout modules N shifts.
store::PyDict state_dict(const optim::Arena& arena, const HypernetworkSpec& own, const HypernetworkSpec& written,
                         std::int64_t width, const std::string& role) {
  const auto weighted = [width](const HypernetworkSpec& spec) {
    std::vector<SequentialModule> modules = sequential_modules(spec, width);
    std::erase_if(modules, [](const SequentialModule& module) { return !module.has_weights(); });
    return modules;
  };
  const auto from = weighted(own), to = weighted(written);
  store::PyDict dict;
  for (std::size_t i = 0; i < to.size(); ++i)
    for (const std::string kind : {"weight", "bias"}) {
      const at::Tensor& leaf = arena.parameter(module_name(width, role, from[i].index) + "." + kind);
      dict.items.emplace_back("linear." + std::to_string(to[i].index) + "." + kind, leaf.detach().cpu());
    }
  return dict;
}

void add_settings(store::PyDict& file, const HypernetworkSpec& spec, const Adapter::ExportInfo& info) {
  std::vector<double> dropout = spec.dropout_structure;
  if (dropout.empty()) dropout.assign(spec.layer_structure.size(), 0.0);
  const auto set = [&](const char* key, store::PyValue value) { file.items.emplace_back(key, std::move(value)); };
  set("step", info.step);
  set("name", info.name);
  set("layer_structure", list_of(spec.layer_structure));
  set("activation_func", spec.activation);
  set("is_layer_norm", spec.layer_norm);
  set("weight_initialization", spec.weight_init);
  set("sd_checkpoint", text_or_none(info.base_sha256));
  set("sd_checkpoint_name", text_or_none(info.base_name));
  set("activate_output", spec.activate_output);
  set("use_dropout", std::any_of(dropout.begin(), dropout.end(), [](double p) { return p > 0; }));
  set("dropout_structure", list_of(dropout));
  set("last_layer_dropout", dropout[dropout.size() - 2] != 0);
  set("optional_info", store::PyValue());
  // A1111, MonkeyPatch and ComfyUI pass over keys that they do not know.
  if (spec.layer_norm && spec.layer_norm_init != "a1111") set("layer_norm_init", spec.layer_norm_init);
}

}  // namespace

void Hypernetwork::export_file(const optim::Arena& arena, const std::filesystem::path& file,
                               const ExportInfo& info) const {
  HypernetworkSpec written = spec_;
  if (info.inference_only) written.dropout_structure.clear();
  store::PyDict dict;
  for (std::int64_t width : spec_.widths) {
    store::PyTuple pair;
    for (const std::string role : kRoles) pair.items.emplace_back(state_dict(arena, spec_, written, width, role));
    dict.items.emplace_back(width, std::move(pair));
  }
  ExportInfo named = info;
  if (named.name.empty()) named.name = file.stem().string();
  add_settings(dict, written, named);
  if (file.extension() == ".safetensors") {
    write_hypernetwork_safetensors(file, dict);
  } else {
    store::write_torch_file(file, dict);
  }
}

}  // namespace ldmtune::adapt
