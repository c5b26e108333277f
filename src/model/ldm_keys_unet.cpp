#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "core/error.h"
#include "model/ldm_keys.h"

namespace ldmtune::model {
namespace {

constexpr std::array<LdmName, 8> kModules{{{"time_embedding.linear_1", "time_embed.0"},
                                           {"time_embedding.linear_2", "time_embed.2"},
                                           {"add_embedding.linear_1", "label_emb.0.0"},
                                           {"add_embedding.linear_2", "label_emb.0.2"},
                                           {"conv_in", "input_blocks.0.0"},
                                           {"conv_norm_out", "out.0"},
                                           {"conv_out", "out.2"},
                                           {"mid_block.attentions.0", "middle_block.1"}}};
constexpr std::array<LdmName, 6> kResnet{{{"norm1", "in_layers.0"},
                                          {"conv1", "in_layers.2"},
                                          {"time_emb_proj", "emb_layers.1"},
                                          {"norm2", "out_layers.0"},
                                          {"conv2", "out_layers.3"},
                                          {"conv_shortcut", "skip_connection"}}};
constexpr std::array<LdmName, 2> kMidResnets{
    {{"mid_block.resnets.0", "middle_block.0"}, {"mid_block.resnets.1", "middle_block.2"}}};

/// `head` and a resnet's own key, renamed; empty if `rest` is no resnet's key.
std::string resnet_key(const std::string& head, std::string_view rest, LdmDirection direction) {
  const std::string renamed = rename_module(rest, kResnet, direction);
  return renamed.empty() ? "" : head + "." + renamed;
}

/// The mid block's resnets: "mid_block.resnets.0." <-> "middle_block.0.".
std::string mid_resnet_key(std::string_view key, LdmDirection direction) {
  for (const LdmName& name : kMidResnets) {
    const bool reads_ldm = direction == LdmDirection::from_ldm;
    const std::string old = std::string(reads_ldm ? name.ldm : name.diffusers) + ".";
    if (!key.starts_with(old)) continue;
    return resnet_key(std::string(reads_ldm ? name.diffusers : name.ldm), key.substr(old.size()), direction);
  }
  return "";
}

std::string block(const char* kind, std::int64_t number, const char* part, std::int64_t index) {
  return cat(kind, ".", number, ".", part, ".", index);
}

/// How many resnets a down block has, by LDM's keys: the first downsampler follows the first block's resnets.
std::int64_t layers_of_ldm(const store::TensorMap& tensors) {
  std::int64_t first_downsampler = -1, last = 0;
  for (const auto& [key, tensor] : tensors) {
    std::string_view rest;
    const std::int64_t number = numbered_module(key, "input_blocks.", rest);
    if (number < 0) continue;
    last = std::max(last, number);
    const bool is_downsampler = rest == "0.op.weight";
    if (is_downsampler && (first_downsampler < 0 || number < first_downsampler)) first_downsampler = number;
  }
  return std::max<std::int64_t>(1, first_downsampler < 0 ? last : first_downsampler - 1);
}

std::string from_ldm(const std::string& key, std::int64_t layers) {
  std::string_view rest;
  const std::string plain = rename_module(key, kModules, LdmDirection::from_ldm);
  if (!plain.empty()) return plain;
  const std::string mid = mid_resnet_key(key, LdmDirection::from_ldm);
  if (!mid.empty()) return mid;

  const std::int64_t input = numbered_module(key, "input_blocks.", rest);
  if (input > 0) {
    const std::int64_t down = (input - 1) / (layers + 1), layer = (input - 1) % (layers + 1);
    if (rest.starts_with("0.op.")) return cat(block("down_blocks", down, "downsamplers", 0), ".conv.", rest.substr(5));
    if (rest.starts_with("1.")) return cat(block("down_blocks", down, "attentions", layer), ".", rest.substr(2));
    if (rest.starts_with("0.")) {
      return resnet_key(block("down_blocks", down, "resnets", layer), rest.substr(2), LdmDirection::from_ldm);
    }
  }
  const std::int64_t output = numbered_module(key, "output_blocks.", rest);
  if (output >= 0) {
    const std::int64_t up = output / (layers + 1), layer = output % (layers + 1);
    if (rest.starts_with("1.conv.") || rest.starts_with("2.conv.")) {
      return cat(block("up_blocks", up, "upsamplers", 0), ".conv.", rest.substr(7));
    }
    if (rest.starts_with("1.")) return cat(block("up_blocks", up, "attentions", layer), ".", rest.substr(2));
    if (rest.starts_with("0.")) {
      return resnet_key(block("up_blocks", up, "resnets", layer), rest.substr(2), LdmDirection::from_ldm);
    }
  }
  return "";
}

struct UNetShape {
  std::int64_t layers = 1;
  std::set<std::int64_t> up_blocks_with_attention;
};

UNetShape shape_of(const store::TensorMap& tensors, const std::string& source) {
  std::map<std::int64_t, std::int64_t> layers_of_block;
  UNetShape shape;
  for (const auto& [key, tensor] : tensors) {
    std::string_view rest, inner;
    const std::int64_t down = numbered_module(key, "down_blocks.", rest);
    if (down >= 0) {
      layers_of_block[down] = std::max(layers_of_block[down], numbered_module(rest, "resnets.", inner) + 1);
    }
    const std::int64_t up = numbered_module(key, "up_blocks.", rest);
    if (up >= 0 && rest.starts_with("attentions.")) shape.up_blocks_with_attention.insert(up);
  }
  for (const auto& [number, layers] : layers_of_block) {
    if (layers != layers_of_block.begin()->second) {
      fail_input(source, ": its down blocks have ", layers_of_block.begin()->second, " and ", layers,
                 " resnets; the LDM layout has the same number in each. Export it as diffusers instead");
    }
    shape.layers = layers;
  }
  return shape;
}

std::string to_ldm(const std::string& key, const UNetShape& shape) {
  const std::string plain = rename_module(key, kModules, LdmDirection::to_ldm);
  if (!plain.empty()) return plain;
  const std::string mid = mid_resnet_key(key, LdmDirection::to_ldm);
  if (!mid.empty()) return mid;

  std::string_view rest, inner;
  const std::int64_t down = numbered_module(key, "down_blocks.", rest);
  const std::int64_t up = down < 0 ? numbered_module(key, "up_blocks.", rest) : -1;
  if (down < 0 && up < 0) return "";
  const auto head = [&](std::int64_t layer) {
    return down >= 0 ? cat("input_blocks.", 1 + down * (shape.layers + 1) + layer)
                     : cat("output_blocks.", up * (shape.layers + 1) + layer);
  };
  if (rest.starts_with("downsamplers.0.conv.")) return cat(head(shape.layers), ".0.op.", rest.substr(20));
  if (rest.starts_with("upsamplers.0.conv.")) {
    return cat(head(shape.layers), shape.up_blocks_with_attention.contains(up) ? ".2" : ".1", ".conv.",
               rest.substr(18));
  }
  const std::int64_t attention = numbered_module(rest, "attentions.", inner);
  if (attention >= 0) return cat(head(attention), ".1.", inner);
  const std::int64_t resnet = numbered_module(rest, "resnets.", inner);
  return resnet >= 0 ? resnet_key(head(resnet) + ".0", inner, LdmDirection::to_ldm) : "";
}

}  // namespace

std::int64_t numbered_module(std::string_view key, std::string_view prefix, std::string_view& rest) {
  if (!key.starts_with(prefix)) return -1;
  const std::string_view digits = key.substr(prefix.size());
  int number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const auto length = static_cast<std::size_t>(end - digits.data());
  if (error != std::errc{} || number < 0 || length >= digits.size() || digits[length] != '.') return -1;
  rest = digits.substr(length + 1);
  return number;
}

store::TensorMap unet_from_ldm(store::TensorMap tensors, const std::string& source) {
  const std::int64_t layers = layers_of_ldm(tensors);
  store::TensorMap renamed;
  for (auto& [key, tensor] : tensors) {
    const std::string name = from_ldm(key, layers);
    if (name.empty()) {
      fail_input(source, ": tensor \"model.diffusion_model.", key, "\" has no place in the UNet of SD 1, SD 2 or SDXL");
    }
    renamed.emplace(name, std::move(tensor));
  }
  return renamed;
}

store::TensorMap unet_to_ldm(store::TensorMap tensors, const std::string& source) {
  const UNetShape shape = shape_of(tensors, source);
  store::TensorMap renamed;
  for (auto& [key, tensor] : tensors) {
    const std::string name = to_ldm(key, shape);
    if (name.empty()) fail_input(source, ": the UNet's tensor \"", key, "\" has no name in the LDM layout");
    renamed.emplace(name, std::move(tensor));
  }
  return renamed;
}

}  // namespace ldmtune::model
