#pragma once
// A LoRA over layers of every kind, and what tests need around it.

#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "adapt/lora_file.h"
#include "small_network.h"

namespace ldmtune::adapt {

inline const std::string kMatrix = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
inline const std::string kPointwise = "mid_block.attentions.0.proj_in";
inline const std::string kText = "text_model.encoder.layers.0.self_attn.q_proj";

/// Layers of an SDXL-like base, with two residual blocks a level.
inline std::vector<LoraSite> small_sites() {
  return {{"unet", "down_blocks.0.resnets.0.conv1", {8, 8, 3, 3}},
          {"unet", "down_blocks.0.resnets.1.conv1", {8, 8, 3, 3}},
          {"unet", kMatrix, {8, 12}},
          {"unet", kPointwise, {8, 6, 1, 1}},
          {"unet", "up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj", {16, 8}},
          {"text_encoder", kText, {12, 12}},
          {"text_encoder_2", kText, {20, 20}}};
}

/// Its factors, drawn at random, for the sites with hooks; ranks and alphas differ.
struct SmallLora {
  Lora lora;
  std::unique_ptr<optim::Arena> arena;

  explicit SmallLora(std::vector<LoraModule> modules = all_modules())
      : lora(std::move(modules)), arena(std::make_unique<optim::Arena>(lora.parameters())) {
    const at::NoGradGuard no_grad;
    for (const optim::ArenaEntry& entry : arena->entries())
      arena->parameter(entry.spec.name).detach().copy_(normals(entry.spec.shape, derive_seed(3, entry.spec.name)));
  }

  static std::vector<LoraModule> all_modules() {
    std::vector<LoraModule> modules;
    for (const LoraSite& site : small_sites())
      if (site.has_hook()) {
        const auto rank = static_cast<std::int64_t>(modules.size() % 3 + 1);
        modules.push_back({site, rank, static_cast<float>(0.1) * static_cast<double>(modules.size() + 1)});
      }
    for (LoraModule& module : modules) module.alpha = static_cast<float>(module.alpha);
    return modules;
  }
};

/// A folder of this test alone, removed at the end.
struct ScratchFolder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("ldmtune-lora-" + std::to_string(getpid()));
  ScratchFolder() { std::filesystem::create_directories(path); }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
};

}  // namespace ldmtune::adapt
