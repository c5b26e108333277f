#include "adapt/dreambooth.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/error.h"
#include "model/base_outline.h"
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

/// Key -> shape of each component.
using Shapes = std::map<std::string, std::map<std::string, std::vector<std::int64_t>>>;

std::int64_t text_layers(const std::map<std::string, std::vector<std::int64_t>>& shapes) {
  std::int64_t layers = 0;
  while (shapes.count("text_model.encoder.layers." + std::to_string(layers) + ".layer_norm1.weight") > 0) ++layers;
  return layers;
}

/// Keys of a text encoder's weights behind the layer that is read. Without a gradient, decay alone would move them.
std::set<std::string> unread_prefixes(const Shapes& base, const std::string& component, std::int64_t clip_skip) {
  const bool is_sdxl = base.count("text_encoder_2") > 0;
  // SDXL's second encoder is read to its end, for the pooled embedding.
  if (component == "text_encoder_2") return {};
  const std::int64_t layers = text_layers(base.at(component));
  std::set<std::string> prefixes;
  for (std::int64_t layer = layers - clip_skip + (is_sdxl ? 0 : 1); layer < layers; ++layer) {
    prefixes.insert("text_model.encoder.layers." + std::to_string(layer) + ".");
  }
  if (is_sdxl) prefixes.insert("text_model.final_layer_norm.");
  return prefixes;
}

/// Component and key of what trains, in order.
std::vector<std::pair<std::string, std::string>> select(const DreamboothConfig& config, std::int64_t clip_skip,
                                                        const Shapes& base) {
  const std::string& train_unet = config.train_unet;
  if (train_unet != "all" && train_unet != "attention" && train_unet != "none") {
    fail_input("option dreambooth.train_unet: expected all, attention or none, found '", train_unet, "'");
  }
  std::vector<std::pair<std::string, std::string>> selected;
  for (const auto& [key, shape] : base.at("unet")) {
    if (is_trained(key, train_unet)) selected.emplace_back("unet", key);
  }
  for (const std::string component : {"text_encoder", "text_encoder_2"}) {
    if (!config.train_text_encoder || base.count(component) == 0) continue;
    const std::set<std::string> unread = unread_prefixes(base, component, clip_skip);
    for (const auto& [key, shape] : base.at(component)) {
      const bool is_read = std::none_of(unread.begin(), unread.end(),
                                        [&key = key](const std::string& prefix) { return key.rfind(prefix, 0) == 0; });
      if (is_read) selected.emplace_back(component, key);
    }
  }
  if (selected.empty()) {
    fail_input("options dreambooth.train_unet and dreambooth.train_text_encoder: neither leaves anything to train");
  }
  return selected;
}

Shapes shapes_of(const model::BaseModel& base) {
  Shapes shapes;
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"}) {
    const store::TensorMap* parameters = parameters_of(base, component);
    if (!parameters) continue;
    for (const auto& [key, tensor] : *parameters) shapes[component][key] = tensor.sizes().vec();
  }
  return shapes;
}

/// Shards and variants of a component hold the same keys or different ones: together they are its parameters.
Shapes shapes_in(const std::filesystem::path& base) {
  Shapes shapes;
  if (model::is_single_file(base)) {
    for (const auto& [component, network] : model::single_file_outline(base).networks) {
      if (component == "vae") continue;
      for (const auto& [key, tensor] : network.tensors) shapes[component][key] = tensor.sizes().vec();
    }
    return shapes;
  }
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"}) {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(base / component, none)) {
      if (entry.path().extension() != ".safetensors") continue;
      for (const store::TensorInfo& tensor : store::read_safetensors_header(entry.path())) {
        if (!at::isFloatingType(tensor.dtype)) continue;  // position_ids is no parameter
        // transformers 5 leaves the text encoder's prefix out.
        const bool is_short = component != "unet" && tensor.name.find("text_") != 0;
        shapes[component][(is_short ? "text_model." : "") + tensor.name] = tensor.shape;
      }
    }
  }
  return shapes;
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
  std::vector<BaseWeight> weights;
  for (const auto& [component, key] : select(config, clip_skip, shapes_of(base))) {
    weights.push_back({component, key, parameters_of(base, component)->at(key)});
  }
  return Dreambooth(std::move(weights));
}

void cast_networks(const model::BaseModel& base, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"}) {
    const store::TensorMap* parameters = parameters_of(base, component);
    if (!parameters) continue;
    // The handle shares its implementation with the module's.
    for (const auto& [key, tensor] : *parameters) {
      if (tensor.scalar_type() != dtype) tensor.set_data(tensor.to(dtype));
    }
  }
}

std::vector<optim::ParameterSpec> dreambooth_parameters(const DreamboothConfig& config, std::int64_t clip_skip,
                                                        const std::filesystem::path& base) {
  const Shapes shapes = shapes_in(base);
  if (shapes.count("unet") == 0) {
    fail_input(base.string(), ": expected unet/*.safetensors of a base model, found none");
  }
  std::vector<optim::ParameterSpec> specs;
  for (const auto& [component, key] : select(config, clip_skip, shapes)) {
    specs.push_back({component + "." + key, shapes.at(component).at(key), component});
  }
  return specs;
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
  for (const BaseWeight& weight : weights_) {
    if (weight.tensor.scalar_type() == at::kFloat) {
      arena.adopt(weight.full_name(), weight.tensor);
    } else {
      arena.adopt_copy(weight.full_name(), weight.tensor);
    }
  }
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
  store::Metadata metadata{{"format", "pt"},
                           {"ldmtune.method", "dreambooth"},
                           {"ldmtune.name", info.name},
                           {"ldmtune.step", std::to_string(info.step)},
                           {"ldmtune.base", info.base_name},
                           {"ldmtune.base_sha256", info.base_sha256}};
  std::erase_if(metadata, [](const auto& entry) { return entry.second.empty(); });
  store::write_safetensors(file, tensors, metadata);
}

const at::Tensor& weight_of(const model::BaseModel& base, const std::string& name, const at::Tensor& values,
                            const std::string& source) {
  const std::size_t dot = name.find('.');
  const store::TensorMap* parameters = dot == std::string::npos ? nullptr : parameters_of(base, name.substr(0, dot));
  const auto found = parameters ? parameters->find(name.substr(dot + 1)) : store::TensorMap::const_iterator();
  if (!parameters || found == parameters->end()) {
    fail_input(source, ": ", base.folder.string(), " has no weight ", name, "; was it trained on this base?");
  }
  if (found->second.sizes() != values.sizes()) {
    fail_input(source, ": ", name, " has shape ", values.sizes(), ", expected ", found->second.sizes(), " of ",
               base.folder.string());
  }
  return found->second;
}

void load_trained_weights(const store::TensorMap& trained, const std::filesystem::path& source,
                          const model::BaseModel& base) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : trained) weight_of(base, name, tensor, source.string()).copy_(tensor);
}

}  // namespace ldmtune::adapt
