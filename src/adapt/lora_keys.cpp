#include "adapt/lora_keys.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace ldmtune::adapt {

namespace {

struct Ending {
  const char* text;
  LoraPart part;
};

// PEFT's; kohya's; and those of older diffusers.
constexpr std::array<Ending, 13> kEndings{{{".lora_A.weight", LoraPart::down},
                                           {".lora_B.weight", LoraPart::up},
                                           {".lora_A.default.weight", LoraPart::down},
                                           {".lora_B.default.weight", LoraPart::up},
                                           {".lora_down.weight", LoraPart::down},
                                           {".lora_up.weight", LoraPart::up},
                                           {".lora.down.weight", LoraPart::down},
                                           {".lora.up.weight", LoraPart::up},
                                           {"_lora.down.weight", LoraPart::down},
                                           {"_lora.up.weight", LoraPart::up},
                                           {".lora_linear_layer.down.weight", LoraPart::down},
                                           {".lora_linear_layer.up.weight", LoraPart::up},
                                           {".alpha", LoraPart::alpha}}};

constexpr std::array<std::pair<const char*, const char*>, 4> kKohyaPrefixes{{{"lora_unet_", "unet"},
                                                                             {"lora_te_", "text_encoder"},
                                                                             {"lora_te1_", "text_encoder"},
                                                                             {"lora_te2_", "text_encoder_2"}}};

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

void replace_ending(std::string& text, const std::string& from, const std::string& to) {
  if (text.ends_with(from)) text.replace(text.size() - from.size(), from.size(), to);
}

/// Older spellings to the present full name.
std::string present_name(std::string layer) {
  replace_all(layer, "base_model.model.", "");
  replace_all(layer, ".processor.", ".");
  replace_ending(layer, ".to_out", ".to_out.0");
  const bool is_text = layer.starts_with("text_encoder");
  if (!is_text && !layer.starts_with("unet.")) layer = "unet." + layer;
  if (!is_text) return layer;
  const std::size_t dot = layer.find('.');
  if (layer.compare(dot + 1, 8, "encoder.") == 0) layer.insert(dot + 1, "text_model.");
  replace_ending(layer, ".to_q", ".q_proj");
  replace_ending(layer, ".to_k", ".k_proj");
  replace_ending(layer, ".to_v", ".v_proj");
  replace_ending(layer, ".to_out.0", ".out_proj");
  return layer;
}

/// A block's number and an attention's within it: "down_blocks.1.attentions.0.proj_in" -> (1, 0, "proj_in").
struct AttentionName {
  std::int64_t block, attention;
  std::string rest;
};
std::optional<AttentionName> parse_attention(const std::string& name, const std::string& blocks) {
  int block = 0, attention = 0, length = 0;
  if (!name.starts_with(blocks + ".")) return std::nullopt;
  const std::string inner = name.substr(blocks.size() + 1);
  if (std::sscanf(inner.c_str(), "%d.attentions.%d.%n", &block, &attention, &length) != 2 || length == 0)
    return std::nullopt;
  return AttentionName{block, attention, inner.substr(static_cast<std::size_t>(length))};
}

/// The layer's name in LDM's block numbers, which kohya uses for SDXL; `layers` is the residual blocks of a level.
std::optional<std::string> ldm_name(const std::string& name, std::int64_t layers) {
  if (const auto down = parse_attention(name, "down_blocks"))
    return "input_blocks." + std::to_string(1 + down->block * (layers + 1) + down->attention) + ".1." + down->rest;
  if (const auto up = parse_attention(name, "up_blocks"))
    return "output_blocks." + std::to_string(up->block * (layers + 1) + up->attention) + ".1." + up->rest;
  const std::string middle = "mid_block.attentions.0.";
  if (name.starts_with(middle)) return "middle_block.1." + name.substr(middle.size());
  return std::nullopt;
}

std::int64_t layers_per_block(const std::vector<LoraSite>& sites) {
  std::int64_t layers = 0;
  for (const LoraSite& site : sites)
    if (site.component == "unet" && site.name.starts_with("down_blocks.0.resnets.") && site.name.ends_with(".conv1"))
      ++layers;
  return layers;
}

}  // namespace

std::optional<LoraKey> split_lora_key(const std::string& key) {
  for (const Ending& ending : kEndings)
    if (key.ends_with(ending.text))
      return LoraKey{key.substr(0, key.size() - std::string(ending.text).size()), ending.part};
  return std::nullopt;
}

bool is_kohya_layer(const std::string& layer) {
  return std::any_of(kKohyaPrefixes.begin(), kKohyaPrefixes.end(),
                     [&](const auto& prefix) { return layer.starts_with(prefix.first); });
}

std::string kohya_name(const LoraSite& site, bool two_text_encoders) {
  const char* prefix = two_text_encoders ? "lora_te1_" : "lora_te_";
  if (site.component == "unet") prefix = "lora_unet_";
  if (site.component == "text_encoder_2") prefix = "lora_te2_";
  return prefix + underscored(site.name);
}

LoraKeyResolver::LoraKeyResolver(const std::vector<LoraSite>& sites) : sites_(sites) {
  const std::int64_t layers = layers_per_block(sites);
  for (std::size_t i = 0; i < sites.size(); ++i) {
    by_name_.emplace(sites[i].full_name(), i);
    for (const auto& [prefix, component] : kKohyaPrefixes)
      if (sites[i].component == component) by_name_.emplace(prefix + underscored(sites[i].name), i);
    if (sites[i].component != "unet") continue;
    if (const auto ldm = ldm_name(sites[i].name, layers)) by_name_.emplace("lora_unet_" + underscored(*ldm), i);
  }
}

const LoraSite* LoraKeyResolver::find(const std::string& layer) const {
  const auto found = by_name_.find(is_kohya_layer(layer) ? layer : present_name(layer));
  return found == by_name_.end() ? nullptr : &sites_[found->second];
}

}  // namespace ldmtune::adapt
