#include "cli/inspect_kinds.h"

#include <map>
#include <set>

#include "adapt/hypernetwork.h"
#include "adapt/lora_keys.h"
#include "adapt/textual_inversion_file.h"
#include "cli/inspect_file.h"
#include "core/options.h"
#include "model/ldm_file.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

// How many digits of a sha256 AUTOMATIC1111 shows: of models and hypernetworks; of LoRAs and embeddings.
constexpr std::size_t kFileDigits = 10, kNetworkDigits = 12;

template <class Numbers>
std::string list_text(const Numbers& numbers) {
  std::string text;
  for (const auto number : numbers) text += (text.empty() ? "" : ", ") + format_number(static_cast<double>(number));
  return text;
}

std::string optional_fact(const std::string& name, const std::string& value) {
  return value.empty() ? "" : fact(name, value);
}

std::string hashes_of(const fs::path& file, std::size_t digits) {
  const std::string sha256 = store::sha256_file(file);
  return fact("sha256", sha256) + fact("AUTOMATIC1111's hash", sha256.substr(0, digits));
}

std::string describe_hypernetwork(const fs::path& file) {
  const adapt::HypernetworkFile read = adapt::read_hypernetwork(file);
  const adapt::HypernetworkSpec& spec = read.network->spec();
  std::string families;
  for (const std::int64_t width : spec.widths) {
    const std::string family = family_of_width(width);
    if (!family.empty()) families += (families.empty() ? "" : ", ") + family;
  }
  std::string text = file.extension() == ".safetensors" ? "hypernetwork (.safetensors of ldmtune)\n"
                                                        : "hypernetwork (AUTOMATIC1111 .pt)\n";
  text += optional_fact("for", families);
  text += fact("name", read.name) + fact("step", read.step) + fact("layer structure", list_text(spec.layer_structure));
  text += fact("activation", spec.activation + (spec.activate_output ? ", after the last layer too" : ""));
  text += fact("layer norm", spec.layer_norm ? "yes" : "no") + fact("weight init", spec.weight_init);
  if (spec.layer_norm) text += fact("layer norm init", spec.layer_norm_init);
  text += fact("dropout", spec.dropout_structure.empty() ? "none" : list_text(spec.dropout_structure));
  text += fact("context widths", list_text(spec.widths)) + fact("parameters", read.arena->trainable_elements());
  text += optional_fact("trained on", read.base_name) + optional_fact("base sha256", read.base_sha256);
  return text + hashes_of(file, kFileDigits);
}

std::string describe_embeddings(const fs::path& file) {
  const auto embeddings = adapt::read_embeddings(file);
  const adapt::Embedding& first = embeddings.front();
  const bool is_pair = first.second_vectors.defined();
  std::string text = "textual inversion embedding\n";
  text += optional_fact("for", is_pair ? "Stable Diffusion XL" : family_of_width(first.vectors.size(1)));
  for (const adapt::Embedding& embedding : embeddings) {
    const at::Tensor& second = embedding.second_vectors;
    text += fact("token " + embedding.token, cat(embedding.vectors.size(0), " vectors ", embedding.vectors.size(1),
                                                 " wide", second.defined() ? cat(" and ", second.size(1), " wide") : "",
                                                 ", ", c10::toString(embedding.vectors.scalar_type())));
  }
  text += fact("step", first.step);
  text += optional_fact("trained on", first.base_name) + optional_fact("base sha256", first.base_sha256);
  return text + hashes_of(file, kNetworkDigits);
}

/// What the layers of a LoRA file say together.
struct LoraFacts {
  std::map<std::string, std::array<at::Tensor, 3>> layers;  ///< down, up, alpha
  std::map<std::string, std::size_t> by_component;
  std::set<std::int64_t> ranks, context_widths;
  std::set<double> alphas;
  std::set<std::string> other_methods;
  bool is_kohya = false;
};

std::string component_of(const std::string& layer) {
  for (const auto& [prefix, component] : {std::pair{"lora_te2_", "text_encoder_2"},
                                          {"text_encoder_2.", "text_encoder_2"},
                                          {"lora_te", "text_encoder"},
                                          {"text_encoder.", "text_encoder"}}) {
    if (layer.starts_with(prefix)) return component;
  }
  return "unet";
}

void add_layer(const std::string& layer, const std::array<at::Tensor, 3>& tensors, const fs::path& file,
               LoraFacts& facts) {
  const auto& [down, up, alpha] = tensors;
  if (!down.defined() || !up.defined()) {
    fail_input(file.string(), ": ", layer, ": its ", down.defined() ? "up (lora_B)" : "down (lora_A)",
               " factor is missing");
  }
  if (down.dim() < 2 || up.dim() < 2 || down.size(0) != up.size(1)) {
    fail_input(file.string(), ": ", layer, ": its factors have shapes ", down.sizes(), " and ", up.sizes(),
               "; expected (rank, in) and (out, rank)");
  }
  ++facts.by_component[component_of(layer)];
  facts.ranks.insert(down.size(0));
  if (alpha.defined() && alpha.numel() == 1) facts.alphas.insert(alpha.to(at::kDouble).item<double>());
  const bool reads_text = layer.find("attn2") != std::string::npos &&
                          (layer.ends_with("to_k") || layer.ends_with("to_v") || layer.ends_with("to_k_lora"));
  if (reads_text) facts.context_widths.insert(down.size(1));
}

LoraFacts lora_facts(const store::SafetensorsFile& content, const fs::path& file) {
  LoraFacts facts;
  for (const auto& [key, tensor] : content.tensors) {
    for (const auto& [part, method] : {std::pair{"hada_", "LoHa"},
                                       {"lokr_", "LoKr"},
                                       {"dora_scale", "DoRA"},
                                       {"lora_magnitude_vector", "DoRA"},
                                       {"oft_", "OFT"}}) {
      if (key.find(part) != std::string::npos) facts.other_methods.insert(method);
    }
    const auto split = adapt::split_lora_key(key);
    if (!split) continue;
    facts.is_kohya = facts.is_kohya || adapt::is_kohya_layer(split->layer);
    facts.layers[split->layer][static_cast<std::size_t>(split->part)] = tensor;
  }
  if (!facts.other_methods.empty()) return facts;
  for (const auto& [layer, tensors] : facts.layers) add_layer(layer, tensors, file, facts);
  return facts;
}

/// PEFT's settings, where they are in the metadata instead of tensors.
std::string peft_alpha(const store::Metadata& metadata) {
  const auto found = metadata.find("lora_adapter_metadata");
  if (found == metadata.end()) return "";
  const auto settings = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  std::string text;
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"}) {
    const std::string key = component + ".lora_alpha";
    if (!settings.is_object() || !settings.contains(key) || !settings[key].is_number()) continue;
    text += (text.empty() ? "" : ", ") + component + " " + format_number(settings[key].get<double>());
  }
  return text;
}

std::string describe_lora(const fs::path& file) {
  if (file.extension() != ".safetensors") {
    fail_input(file.string(), ": a LoRA in torch's format; expected .safetensors, which ldmtune reads LoRAs from");
  }
  const store::SafetensorsFile content = store::read_safetensors(file);
  store::check_finite(content.tensors, file);
  const LoraFacts facts = lora_facts(content, file);
  std::string methods, families;
  for (const std::string& method : facts.other_methods) methods += (methods.empty() ? "" : ", ") + method;
  std::string text = methods.empty() ? cat("LoRA (", facts.is_kohya ? "kohya's" : "diffusers'", " layout)\n")
                                     : methods + " (not supported)\n";
  for (const std::int64_t width : facts.context_widths) families = family_of_width(width);
  text += optional_fact("for", families);
  for (const auto& [component, count] : facts.by_component) text += fact(component, cat(count, " layers"));
  if (!facts.ranks.empty()) text += fact("rank", list_text(facts.ranks));
  text += optional_fact("alpha", facts.alphas.empty() ? peft_alpha(content.metadata) : list_text(facts.alphas));
  const auto said = [&](const char* key) {
    const auto found = content.metadata.find(key);
    return found == content.metadata.end() ? std::string() : found->second;
  };
  text += optional_fact("name", said("ldmtune_name").empty() ? said("ss_output_name") : said("ldmtune_name"));
  text += optional_fact("step", said("ldmtune_step").empty() ? said("ss_steps") : said("ldmtune_step"));
  text += optional_fact("trained on",
                        said("ldmtune_base_name").empty() ? said("ss_sd_model_name") : said("ldmtune_base_name"));
  text += optional_fact("base sha256", said("ldmtune_base_sha256"));
  const std::string noted = said("sshs_model_hash");
  return text + fact("sha256", store::sha256_file(file)) +
         fact("AUTOMATIC1111's hash",
              (noted.empty() ? store::sha256_safetensors_data(file) : noted).substr(0, kNetworkDigits));
}

std::string describe_tensors(const store::TensorMap& tensors) {
  std::int64_t elements = 0;
  std::set<std::string> types;
  for (const auto& [name, tensor] : tensors) {
    elements += tensor.numel();
    types.insert(c10::toString(tensor.scalar_type()));
  }
  std::string list;
  for (const std::string& type : types) list += (list.empty() ? "" : ", ") + type;
  return cat(elements, " parameters, ", list);
}

std::string describe_base_file(const fs::path& file) {
  const model::BaseParts parts = model::read_single_file(file);
  std::string text = cat("base model in one file (LDM layout)\n", fact("for", model::family_name(parts.family)));
  text += fact("prediction", parts.scheduler_config.value("prediction_type", "epsilon"));
  for (const auto& [name, network] : parts.networks) text += fact(name, describe_tensors(network.tensors));
  return text + hashes_of(file, kFileDigits);
}

std::string describe_weights(const fs::path& file) {
  const store::SafetensorsFile content = store::read_safetensors(file);
  store::check_finite(content.tensors, file);
  std::map<std::string, store::TensorMap> components;
  for (const auto& [name, tensor] : content.tensors) components[name.substr(0, name.find('.'))].emplace(name, tensor);
  std::string text = "weights that dreambooth trained (ldmtune)\n";
  for (const auto& [component, tensors] : components) {
    text += fact(component, cat(tensors.size(), " tensors, ", describe_tensors(tensors)));
  }
  for (const auto& [key, label] : {std::pair{"ldmtune.name", "name"},
                                   {"ldmtune.step", "step"},
                                   {"ldmtune.base", "trained on"},
                                   {"ldmtune.base_sha256", "base sha256"}}) {
    const auto found = content.metadata.find(key);
    if (found != content.metadata.end()) text += optional_fact(label, found->second);
  }
  return text + fact("sha256", store::sha256_file(file));
}

std::string describe_vae(const fs::path& file) {
  const model::Component vae = model::read_vae(file, nlohmann::json::object(), "");
  return "VAE\n" + fact("holds", describe_tensors(vae.tensors)) +
         fact("latent channels", vae.config.value("latent_channels", 4)) + hashes_of(file, kFileDigits);
}

}  // namespace

std::string family_of_width(std::int64_t width) {
  if (width == 768) return model::family_name(model::LdmFamily::sd1);
  if (width == 1024) return model::family_name(model::LdmFamily::sd2);
  return width == 2048 ? model::family_name(model::LdmFamily::sdxl) : "";
}

std::string describe_kind(FileKind kind, const fs::path& file) {
  switch (kind) {
    case FileKind::hypernetwork:
      return describe_hypernetwork(file);
    case FileKind::embedding:
      return describe_embeddings(file);
    case FileKind::lora:
      return describe_lora(file);
    case FileKind::base:
      return describe_base_file(file);
    case FileKind::vae:
      return describe_vae(file);
    case FileKind::weights:
      return describe_weights(file);
    case FileKind::other:
      break;
  }
  return "";
}

}  // namespace ldmtune::cli
