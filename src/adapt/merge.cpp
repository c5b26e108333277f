#include "adapt/merge.h"

#include <ATen/core/grad_mode.h>

#include <charconv>
#include <cmath>
#include <sstream>

#include "adapt/lora_file.h"
#include "core/error.h"
#include "core/log.h"
#include "core/options.h"
#include "store/files.h"

namespace ldmtune::adapt {

namespace {

const store::TensorMap& parameters_of(const model::BaseModel& base, const std::string& component) {
  if (component == "unet") return base.unet->parameters();
  return (component == "text_encoder_2" ? base.text_encoder_2 : base.text_encoder)->parameters();
}

void merge_layer(const at::Tensor& weight, const LoraModule& module, const optim::Arena& arena, double strength) {
  const at::Tensor down = arena.parameter(module.down_name()).flatten(1);  // (rank, in * kernel)
  const at::Tensor up = arena.parameter(module.up_name()).flatten(1);      // (out, rank)
  const at::Tensor change = at::matmul(up, down).mul_(module.scale() * strength).view(weight.sizes());
  weight.copy_(weight.to(at::kFloat).add_(change));
}

std::string hash_of(const LoraFile& file) {
  store::TensorMap tensors = file.arena->parameter_views();
  for (auto& [name, tensor] : tensors) tensor = tensor.cpu();
  for (const LoraModule& module : file.lora->modules())
    tensors.emplace(module.site.full_name() + ".alpha", at::scalar_tensor(module.alpha, at::kDouble));
  return store::sha256_tensors_exact(tensors);
}

}  // namespace

WeightedFile parse_weighted_file(const std::string& text, const std::string& option) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return {text, 1.0};
  double strength = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data() + colon + 1, last, strength);
  if (error != std::errc{} || end != last) return {text, 1.0};
  if (!std::isfinite(strength))
    fail_input("option ", option, ": expected FILE:STRENGTH with a finite strength, found ", text);
  return {text.substr(0, colon), strength};
}

std::vector<WeightedFile> parse_weighted_files(const std::string& text, const std::string& option) {
  std::vector<WeightedFile> files;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    item.erase(0, item.find_first_not_of(" \t"));
    item.erase(item.find_last_not_of(" \t") + 1);
    if (!item.empty()) files.push_back(parse_weighted_file(item, option));
  }
  return files;
}

void merge_into(model::BaseModel& base, const std::string& merge) {
  const at::NoGradGuard no_grad;
  for (const auto& [file, strength] : parse_weighted_files(merge, "base.merge")) {
    const std::vector<LoraSite> sites = lora_sites(base);
    const at::Device device = base.unet->parameters().begin()->second.device();
    const LoraFile read = read_lora(file, sites, device);
    for (const LoraModule& module : read.lora->modules())
      merge_layer(parameters_of(base, module.site.component).at(module.site.name + ".weight"), module, *read.arena,
                  strength);
    base.sha256 =
        store::sha256_text(cat("merged ", base.sha256, " ", hash_of(read), " ", format_number(strength), "\n"));
    LDMTUNE_LOG(info) << "merged " << file.string() << " (" << read.lora->modules().size() << " layers, strength "
                      << format_number(strength) << ") into " << base.folder.filename().string();
  }
}

}  // namespace ldmtune::adapt
