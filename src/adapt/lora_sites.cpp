// Which layers of a base a LoRA can change, and which of them a configuration targets.

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <utility>

#include "adapt/lora.h"
#include "core/error.h"
#include "model/base_outline.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {

namespace {

void add_site(const std::string& component, const std::string& key, std::vector<std::int64_t> shape,
              std::vector<LoraSite>& sites) {
  const std::string suffix = ".weight";
  if (shape.size() >= 2 && key.ends_with(suffix))
    sites.push_back({component, key.substr(0, key.size() - suffix.size()), std::move(shape)});
}

void add_sites(const std::string& component, const store::TensorMap& parameters, std::vector<LoraSite>& sites) {
  for (const auto& [key, tensor] : parameters) add_site(component, key, tensor.sizes().vec(), sites);
}

/// transformers 5 leaves the text encoder's prefix out.
std::string published_key(const std::string& component, const std::string& key) {
  return component != "unet" && key.starts_with("encoder.") ? "text_model." + key : key;
}

std::vector<std::string> list_of(const std::string& text) {
  std::vector<std::string> items;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    item.erase(0, item.find_first_not_of(" \t"));
    item.erase(item.find_last_not_of(" \t") + 1);
    if (!item.empty()) items.push_back(item);
  }
  return items;
}

/// As PEFT matches target_modules: the whole name, or its end from a dot on.
bool matches(const std::string& name, const std::string& target) {
  return target == "all" || name == target || name.ends_with("." + target);
}

/// "to_out.0", "ff.net.2": a number alone names nothing.
std::string ending_of(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  const bool is_number = name.find_first_not_of("0123456789", dot + 1) == std::string::npos;
  return name.substr(is_number ? name.rfind('.', dot - 1) + 1 : dot + 1);
}

/// Last parts of the layers' names, each once.
std::vector<std::string> endings_of(const std::vector<LoraSite>& sites) {
  std::vector<std::string> endings;
  for (const LoraSite& site : sites) {
    const std::string ending = ending_of(site.name);
    if (std::find(endings.begin(), endings.end(), ending) == endings.end()) endings.push_back(ending);
  }
  return endings;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

void select(const std::vector<LoraSite>& sites, const std::string& option, const std::string& targets,
            const LoraConfig& config, std::vector<LoraModule>& modules) {
  // Rounded to fp32, as kohya's files hold it, so that every file gives back the same number.
  const double alpha = static_cast<float>(config.alpha == 0 ? static_cast<double>(config.rank) : config.alpha);
  const std::vector<std::string> wanted = list_of(targets);
  for (const std::string& target : wanted)
    if (std::none_of(sites.begin(), sites.end(), [&](const LoraSite& site) { return matches(site.name, target); }))
      fail_input("option ", option, ": no layer of this base ends in '", target, "'; its layers end in ",
                 joined(endings_of(sites)));
  for (const LoraSite& site : sites)
    if (std::any_of(wanted.begin(), wanted.end(),
                    [&](const std::string& target) { return matches(site.name, target); }))
      modules.push_back({site, config.rank, alpha});
}

}  // namespace

bool LoraSite::has_hook() const {
  const bool pointwise = std::all_of(weight_shape.begin() + 2, weight_shape.end(), [](auto size) { return size == 1; });
  if (component == "unet") return pointwise && name.find(".attentions.") != std::string::npos;
  return pointwise && name.starts_with("text_model.encoder.layers.");
}

std::string lora_targets(const std::vector<LoraSite>& chosen, const std::vector<LoraSite>& sites) {
  if (chosen.empty()) return "";
  const bool is_unet = chosen.front().component == "unet";
  const std::vector<std::string> endings = endings_of(chosen);
  const auto taken = std::count_if(sites.begin(), sites.end(), [&](const LoraSite& site) {
    return site.has_hook() && (site.component == "unet") == is_unet &&
           std::any_of(endings.begin(), endings.end(),
                       [&](const std::string& target) { return matches(site.name, target); });
  });
  if (taken == static_cast<std::ptrdiff_t>(chosen.size())) return joined(endings);
  std::vector<std::string> names;
  for (const LoraSite& site : chosen) names.push_back(site.name);
  return joined(names);
}

std::vector<LoraSite> lora_sites(const model::BaseModel& base) {
  std::vector<LoraSite> sites;
  if (base.unet) add_sites("unet", base.unet->parameters(), sites);
  if (base.text_encoder) add_sites("text_encoder", base.text_encoder->parameters(), sites);
  if (base.text_encoder_2) add_sites("text_encoder_2", base.text_encoder_2->parameters(), sites);
  return sites;
}

std::vector<LoraSite> lora_sites(const std::filesystem::path& base) {
  if (model::is_single_file(base)) return lora_sites(model::single_file_outline(base));
  std::vector<LoraSite> sites;
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"}) {
    std::map<std::string, std::vector<std::int64_t>> shapes;  // shards and variants together
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(base / component, none)) {
      if (entry.path().extension() != ".safetensors") continue;
      for (const store::TensorInfo& tensor : store::read_safetensors_header(entry.path()))
        shapes[published_key(component, tensor.name)] = tensor.shape;
    }
    for (const auto& [key, shape] : shapes) add_site(component, key, shape, sites);
  }
  return sites;
}

std::vector<LoraSite> lora_sites(const model::BaseParts& parts) {
  std::vector<LoraSite> sites;
  for (const auto& [name, network] : parts.networks) {
    if (name != "vae") add_sites(name, network.tensors, sites);
  }
  // unet first, as everywhere
  std::stable_partition(sites.begin(), sites.end(), [](const LoraSite& site) { return site.component == "unet"; });
  return sites;
}

Lora Lora::from_config(const LoraConfig& config, const std::vector<LoraSite>& sites) {
  constexpr std::int64_t kMaxRank = 4096;
  if (config.rank < 1 || config.rank > kMaxRank)
    fail_input("option lora.rank: expected 1 to ", kMaxRank, ", found ", config.rank);
  if (!std::isfinite(config.alpha) || config.alpha < 0)
    fail_input("option lora.alpha: expected a number above 0 (0: as lora.rank), found ", config.alpha);
  std::vector<LoraSite> unet, text;
  for (const LoraSite& site : sites)
    if (site.has_hook()) (site.component == "unet" ? unet : text).push_back(site);
  std::vector<LoraModule> modules;
  select(unet, "lora.target_modules", config.target_modules, config, modules);
  select(text, "lora.text_encoder_target_modules", config.text_encoder_target_modules, config, modules);
  if (modules.empty())
    fail_input(
        "options lora.target_modules and lora.text_encoder_target_modules: nothing would train; name layers such "
        "as to_q, to_k, to_v, to_out.0");
  return Lora(std::move(modules));
}

}  // namespace ldmtune::adapt
