#include "adapt/dreambooth.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {
namespace {

struct IdentityHooks final : model::ModelHooks {
  bool is_identity() const override { return true; }
};

bool is_of_attention(const std::string& key) {
  return key.find(".attn1.") != std::string::npos || key.find(".attn2.") != std::string::npos;
}

bool is_trained(const std::string& key, const std::string& train_unet) {
  return train_unet == "all" || (train_unet == "attention" && is_of_attention(key));
}

/// Keys of a text encoder's weights behind the layer that is read. Without a gradient, decay alone would move them.
std::set<std::string> unread_prefixes(const model::BaseModel& base, const std::string& component,
                                      std::int64_t clip_skip) {
  const bool is_sdxl = base.text_encoder_2 != nullptr;
  // SDXL's second encoder is read to its end, for the pooled embedding.
  if (component == "text_encoder_2") return {};
  const std::int64_t layers = base.text_encoder->num_hidden_layers();
  std::set<std::string> prefixes;
  for (std::int64_t layer = layers - clip_skip + (is_sdxl ? 0 : 1); layer < layers; ++layer) {
    prefixes.insert("text_model.encoder.layers." + std::to_string(layer) + ".");
  }
  if (is_sdxl) prefixes.insert("text_model.final_layer_norm.");
  return prefixes;
}

std::vector<BaseWeight> unet_weights(const model::BaseModel& base, const std::string& train_unet) {
  std::vector<BaseWeight> weights;
  for (const auto& [key, tensor] : base.unet->parameters()) {
    if (is_trained(key, train_unet)) weights.push_back({"unet", key, tensor});
  }
  return weights;
}

std::vector<BaseWeight> text_weights(const model::BaseModel& base, const std::string& component,
                                     std::int64_t clip_skip) {
  const std::set<std::string> unread = unread_prefixes(base, component, clip_skip);
  std::vector<BaseWeight> weights;
  for (const auto& [key, tensor] : *parameters_of(base, component)) {
    const bool is_read = std::none_of(unread.begin(), unread.end(),
                                      [&key = key](const std::string& prefix) { return key.rfind(prefix, 0) == 0; });
    if (is_read) weights.push_back({component, key, tensor});
  }
  return weights;
}

}  // namespace

const store::TensorMap* parameters_of(const model::BaseModel& base, const std::string& component) {
  if (component == "unet" && base.unet) return &base.unet->parameters();
  if (component == "text_encoder" && base.text_encoder) return &base.text_encoder->parameters();
  if (component == "text_encoder_2" && base.text_encoder_2) return &base.text_encoder_2->parameters();
  return nullptr;
}

Dreambooth Dreambooth::from_config(const DreamboothConfig& config, std::int64_t clip_skip,
                                   const model::BaseModel& base) {
  const std::string& train_unet = config.train_unet;
  if (train_unet != "all" && train_unet != "attention" && train_unet != "none") {
    fail_input("option dreambooth.train_unet: expected all, attention or none, found '", train_unet, "'");
  }
  std::vector<BaseWeight> weights = unet_weights(base, train_unet);
  for (const std::string component : {"text_encoder", "text_encoder_2"}) {
    if (!config.train_text_encoder || !parameters_of(base, component)) continue;
    std::vector<BaseWeight> more = text_weights(base, component, clip_skip);
    weights.insert(weights.end(), more.begin(), more.end());
  }
  if (weights.empty()) {
    fail_input("options dreambooth.train_unet and dreambooth.train_text_encoder: neither leaves anything to train");
  }
  for (const BaseWeight& weight : weights) {
    if (weight.tensor.scalar_type() == at::kFloat) continue;
    fail_input("option train.mixed_precision: dreambooth trains in fp32 (no), found a base in ",
               weight.tensor.toString());
  }
  return Dreambooth(std::move(weights));
}

std::vector<optim::ParameterSpec> Dreambooth::parameters() const {
  std::vector<optim::ParameterSpec> specs;
  for (const BaseWeight& weight : weights_) {
    specs.push_back({weight.full_name(), weight.tensor.sizes().vec(), weight.component});
  }
  return specs;
}

void Dreambooth::initialize(const optim::Arena& arena, std::uint64_t) const {
  const at::NoGradGuard no_grad;
  for (const BaseWeight& weight : weights_) arena.parameter(weight.full_name()).detach().copy_(weight.tensor);
}

void Dreambooth::bind(optim::Arena& arena) const {
  for (const BaseWeight& weight : weights_) arena.adopt(weight.full_name(), weight.tensor);
}

std::unique_ptr<model::ModelHooks> Dreambooth::hooks(const optim::Arena&, ForwardContext) const {
  return std::make_unique<IdentityHooks>();
}

bool Dreambooth::trains_text_encoder() const {
  return std::any_of(weights_.begin(), weights_.end(),
                     [](const BaseWeight& weight) { return weight.component != "unet"; });
}

void Dreambooth::export_file(const optim::Arena& arena, const std::filesystem::path& file,
                             const ExportInfo& info) const {
  store::TensorMap tensors = arena.parameter_views();
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().cpu().contiguous();
  store::write_safetensors(file, tensors,
                           {{"format", "pt"},
                            {"ldmtune.method", "dreambooth"},
                            {"ldmtune.name", info.name},
                            {"ldmtune.step", std::to_string(info.step)},
                            {"ldmtune.base", info.base_name},
                            {"ldmtune.base_sha256", info.base_sha256}});
}

void load_trained_weights(const store::TensorMap& trained, const std::filesystem::path& source,
                          const model::BaseModel& base) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : trained) {
    const std::size_t dot = name.find('.');
    const store::TensorMap* parameters = dot == std::string::npos ? nullptr : parameters_of(base, name.substr(0, dot));
    const auto found = parameters ? parameters->find(name.substr(dot + 1)) : store::TensorMap::const_iterator();
    if (!parameters || found == parameters->end()) {
      fail_input(source.string(), ": ", base.folder.string(), " has no weight ", name,
                 "; was it trained on this base?");
    }
    if (found->second.sizes() != tensor.sizes()) {
      fail_input(source.string(), ": ", name, " has shape ", tensor.sizes(), ", expected ", found->second.sizes(),
                 " of ", base.folder.string());
    }
    found->second.copy_(tensor);
  }
}

}  // namespace ldmtune::adapt
