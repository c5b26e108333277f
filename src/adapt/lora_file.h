#pragma once
// LoRA files: safetensors in the layout of diffusers and PEFT, or of kohya's sd-scripts (which A1111 and ComfyUI read).
//
// diffusers: unet.<layer>.lora_A.weight, .lora_B.weight (text_encoder., text_encoder_2. likewise); the metadata entry
// "lora_adapter_metadata" is JSON with PEFT's settings by component ("unet.r", "unet.lora_alpha", ...).
// kohya: lora_unet_<layer, dots as underscores>.lora_down.weight, .lora_up.weight, .alpha; text encoders are lora_te_,
// or lora_te1_ and lora_te2_.
// Values are fp32 as trained: what is written reads back bit for bit.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapt/lora.h"

namespace ldmtune::adapt {

enum class LoraLayout { diffusers, kohya };
/// Errors: InputError naming the two there are.
LoraLayout parse_lora_layout(const std::string& name);

/// Writes atomically.
void write_lora(const Lora& lora, const optim::Arena& arena, const std::filesystem::path& file, LoraLayout layout,
                const Adapter::ExportInfo& info);

/// A LoRA read from a file.
struct LoraFile {
  std::unique_ptr<Lora> lora;
  std::unique_ptr<optim::Arena> arena;
  LoraLayout layout = LoraLayout::diffusers;
  std::string name, base_sha256, base_name;
  std::int64_t step = 0;
};

/// Reads either layout, in any of the spellings that diffusers and PEFT used over time, kohya's for SDXL in LDM's block
/// numbers too; fp16 and bf16 become fp32. Errors: InputError naming the file and what is wrong with it: no LoRA (or
/// LoHa, LoKr, DoRA, which are not supported), layers that the base does not have, one factor of two, factors of the
/// wrong shape for the base (both are named), numbers that are not finite.
LoraFile read_lora(const std::filesystem::path& file, const std::vector<LoraSite>& sites, at::Device device = at::kCPU);

/// A LoRA from the parameters of a checkpoint, all with this alpha (0: as each one's rank). `file` names them for
/// errors: InputError if they are no LoRA's.
LoraFile lora_of_parameters(const store::TensorMap& parameters, double alpha, const std::filesystem::path& file);

/// InputError naming the first of its layers that only merging (base.merge) can reach, such as 3x3 convolutions.
void expect_hooks(const Lora& lora, const std::filesystem::path& file);

}  // namespace ldmtune::adapt
