// Reads LoRA files of diffusers, PEFT and kohya.

#include <ATen/core/grad_mode.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapt/lora_file.h"
#include "adapt/lora_keys.h"
#include "core/error.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {

namespace {

using nlohmann::json;

constexpr std::size_t kListed = 4;

/// What a file holds for one layer.
struct Factors {
  std::string layer;  ///< as the file spells it
  at::Tensor down, up, alpha;
};

class Reader {
 public:
  Reader(const std::filesystem::path& file, const std::vector<LoraSite>& sites)
      : file_(file), content_(store::read_safetensors(file)), resolver_(sites) {
    store::check_finite(content_.tensors, file);
    read_peft_settings();
    collect();
  }

  std::vector<LoraModule> modules() const;
  void copy_into(const optim::Arena& arena) const;
  LoraLayout layout() const { return is_kohya_ ? LoraLayout::kohya : LoraLayout::diffusers; }
  std::string text(const std::string& key) const;
  std::int64_t step() const;

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail_input(file_.string(), ": ", parts...);
  }
  [[noreturn]] void refuse_key(const std::string& key) const;
  void refuse_unmatched(const std::set<std::string>& layers) const;
  void read_peft_settings();
  void collect();
  LoraModule checked_module(const LoraSite& site, const Factors& factors) const;
  double alpha_of(const LoraSite& site, const Factors& factors, std::int64_t rank) const;
  double peft_alpha(const LoraSite& site, std::int64_t rank) const;

  const std::filesystem::path& file_;
  const store::SafetensorsFile content_;
  const LoraKeyResolver resolver_;
  json peft_ = json::object();
  std::map<const LoraSite*, Factors> factors_;  ///< in the order of the base's sites
  bool is_kohya_ = false;
};

void Reader::refuse_key(const std::string& key) const {
  for (const auto& [part, method] : {std::pair{"hada_", "LoHa"},
                                     {"lokr_", "LoKr"},
                                     {"lora_mid", "CP-decomposed LoCon"},
                                     {"dora_scale", "DoRA"},
                                     {"lora_magnitude_vector", "DoRA"},
                                     {"oft_", "OFT"},
                                     {"lora_B.bias", "LoRA with biases"}})
    if (key.find(part) != std::string::npos)
      refuse("holds \"", key, "\": ", method, ", which is not supported; expected plain LoRA");
  refuse(
      "no LoRA: expected tensors such as unet.<layer>.lora_A.weight (diffusers) or "
      "lora_unet_<layer>.lora_down.weight (kohya), found \"",
      key, "\"");
}

void Reader::refuse_unmatched(const std::set<std::string>& layers) const {
  std::string list;
  std::size_t count = 0;
  for (const std::string& layer : layers)
    if (count++ < kListed) list += (list.empty() ? "" : ", ") + layer;
  refuse(layers.size(), " of its layers match nothing in this base: ", list, layers.size() > kListed ? " ..." : "",
         "; expected a LoRA that was made for a base of this kind");
}

void Reader::read_peft_settings() {
  const auto found = content_.metadata.find("lora_adapter_metadata");
  if (found == content_.metadata.end()) return;
  peft_ = json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!peft_.is_object()) refuse("its metadata entry lora_adapter_metadata is no JSON object");
  for (const std::string component : {"unet", "text_encoder", "text_encoder_2"})
    if (peft_.contains(component + ".use_dora") && peft_[component + ".use_dora"] == true)
      refuse("made with DoRA, which is not supported; expected plain LoRA");
}

void Reader::collect() {
  std::set<std::string> unmatched;
  for (const auto& [key, tensor] : content_.tensors) {
    const auto split = split_lora_key(key);
    if (!split) refuse_key(key);
    is_kohya_ = is_kohya_ || is_kohya_layer(split->layer);
    const LoraSite* site = resolver_.find(split->layer);
    if (site == nullptr) {
      unmatched.insert(split->layer);
      continue;
    }
    Factors& factors = factors_[site];
    factors.layer = split->layer;
    at::Tensor& place = split->part == LoraPart::down ? factors.down
                        : split->part == LoraPart::up ? factors.up
                                                      : factors.alpha;
    if (place.defined()) refuse("holds two tensors for the same factor of ", site->full_name(), ", one is ", key);
    if (!tensor.is_floating_point() && split->part != LoraPart::alpha)
      refuse(key, ": expected floating-point numbers, found ", tensor.scalar_type());
    place = tensor.to(at::kFloat);
  }
  if (!unmatched.empty()) refuse_unmatched(unmatched);
  if (factors_.empty()) refuse("no LoRA: it holds no tensors");
}

double Reader::peft_alpha(const LoraSite& site, std::int64_t rank) const {
  const auto number = [&](const json& value) {
    if (!value.is_number()) refuse("lora_adapter_metadata: expected a number as alpha of ", site.full_name());
    return value.get<double>();
  };
  const std::string key = site.component + ".";
  double alpha = static_cast<double>(rank);
  if (peft_.contains(key + "lora_alpha")) alpha = number(peft_[key + "lora_alpha"]);
  const json patterns = peft_.value(key + "alpha_pattern", json::object());
  for (const auto& [pattern, value] : patterns.items())
    if (site.name == pattern || site.name.ends_with("." + pattern)) alpha = number(value);
  const bool by_root = peft_.contains(key + "use_rslora") && peft_[key + "use_rslora"] == true;
  return by_root ? alpha * std::sqrt(static_cast<double>(rank)) : alpha;
}

double Reader::alpha_of(const LoraSite& site, const Factors& factors, std::int64_t rank) const {
  if (!factors.alpha.defined()) return peft_alpha(site, rank);
  if (factors.alpha.numel() != 1) refuse(factors.layer, ".alpha: expected one number, found ", factors.alpha.numel());
  return factors.alpha.item<double>();
}

LoraModule Reader::checked_module(const LoraSite& site, const Factors& factors) const {
  for (const auto& [tensor, name] : {std::pair{&factors.down, "down (lora_A)"}, {&factors.up, "up (lora_B)"}})
    if (!tensor->defined()) refuse(factors.layer, ": its ", name, " factor is missing");
  if (factors.down.dim() < 2 || factors.down.size(0) < 1)
    refuse(factors.layer, ": its down factor has shape ", factors.down.sizes(), "; expected (rank, in)");
  LoraModule module{site, factors.down.size(0), 0};
  module.alpha = alpha_of(site, factors, module.rank);
  // A 1x1 convolution's factors may be stored as matrices, and a matrix's as 1x1 convolutions.
  const auto fits = [](const at::Tensor& tensor, std::vector<std::int64_t> shape) {
    std::vector<std::int64_t> found = tensor.sizes().vec();
    for (auto* sizes : {&shape, &found})
      while (sizes->size() > 2 && sizes->back() == 1) sizes->pop_back();
    return shape == found;
  };
  if (!fits(factors.down, module.down_shape()) || !fits(factors.up, module.up_shape()))
    refuse(factors.layer, ": made for another base: its factors have shapes ", factors.down.sizes(), " and ",
           factors.up.sizes(), ", ", site.full_name(), " of this base is ", at::IntArrayRef(site.weight_shape),
           " and needs ", at::IntArrayRef(module.down_shape()), " and ", at::IntArrayRef(module.up_shape()));
  return module;
}

std::vector<LoraModule> Reader::modules() const {
  std::vector<LoraModule> modules;
  for (const auto& [site, factors] : factors_) modules.push_back(checked_module(*site, factors));
  return modules;
}

void Reader::copy_into(const optim::Arena& arena) const {
  const at::NoGradGuard no_grad;
  for (const auto& [site, factors] : factors_) {
    const at::Tensor down = arena.parameter(site->full_name() + ".lora_A.weight").detach();
    const at::Tensor up = arena.parameter(site->full_name() + ".lora_B.weight").detach();
    down.copy_(factors.down.view(down.sizes()));
    up.copy_(factors.up.view(up.sizes()));
  }
}

std::string Reader::text(const std::string& key) const {
  const auto found = content_.metadata.find(key);
  return found == content_.metadata.end() ? "" : found->second;
}

std::int64_t Reader::step() const {
  for (const char* key : {"ldmtune_step", "ss_steps"}) {
    const std::string digits = text(key);
    std::int64_t step = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), step).ec == std::errc{} && step >= 0) return step;
  }
  return 0;
}

}  // namespace

LoraFile read_lora(const std::filesystem::path& file, const std::vector<LoraSite>& sites, at::Device device) {
  const Reader reader(file, sites);
  LoraFile result;
  result.lora = std::make_unique<Lora>(reader.modules());
  result.arena = std::make_unique<optim::Arena>(result.lora->parameters(), device);
  reader.copy_into(*result.arena);
  result.layout = reader.layout();
  result.name = reader.text("ldmtune_name");
  if (result.name.empty()) result.name = reader.text("ss_output_name");
  if (result.name.empty()) result.name = file.stem().string();
  result.base_sha256 = reader.text("ldmtune_base_sha256");
  result.base_name = reader.text("ldmtune_base_name");
  if (result.base_name.empty()) result.base_name = reader.text("ss_sd_model_name");
  result.step = reader.step();
  return result;
}

LoraFile lora_of_parameters(const store::TensorMap& parameters, double alpha, const std::filesystem::path& file) {
  const at::NoGradGuard no_grad;
  std::vector<LoraModule> modules;
  for (const auto& [name, down] : parameters) {
    const auto key = split_lora_key(name);
    const std::size_t dot = name.find('.');
    if (!key || key->part == LoraPart::alpha || down.dim() < 2)
      fail_input(file.string(), ": expected a LoRA's parameters (such as unet.<layer>.lora_A.weight), found ", name);
    if (key->part == LoraPart::up) continue;
    const auto up = parameters.find(key->layer + ".lora_B.weight");
    if (up == parameters.end()) fail_input(file.string(), ": ", key->layer, ": its up (lora_B) factor is missing");
    LoraSite site{name.substr(0, dot), key->layer.substr(dot + 1), down.sizes().vec()};
    site.weight_shape[0] = up->second.size(0);
    const std::int64_t rank = down.size(0);
    modules.push_back({std::move(site), rank, static_cast<float>(alpha == 0 ? static_cast<double>(rank) : alpha)});
  }
  LoraFile result;
  result.lora = std::make_unique<Lora>(std::move(modules));
  result.arena = std::make_unique<optim::Arena>(result.lora->parameters());
  for (const auto& [name, view] : result.arena->parameter_views()) view.copy_(parameters.at(name));
  return result;
}

void expect_hooks(const Lora& lora, const std::filesystem::path& file) {
  for (const LoraModule& module : lora.modules())
    if (!module.site.has_hook())
      fail_input(file.string(), ": it changes ", module.site.full_name(), " of shape ",
                 at::IntArrayRef(module.site.weight_shape),
                 ", which can only be merged into the base: give --base.merge ", file.string());
}

}  // namespace ldmtune::adapt
