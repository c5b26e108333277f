#pragma once
// LoRA: low-rank factors beside linear layers and convolutions of the UNet and the text encoder, with PEFT's semantics:
// a layer's output grows by alpha / rank * strength * B (A x). Everything is computed in fp32, whatever the base runs
// in.
//
// Parameters are named "<component>.<layer>.lora_A.weight" (rank, in[, kernel]) and "....lora_B.weight" (out, rank[, 1,
// 1]), component being unet, text_encoder or text_encoder_2 and layer the checkpoint's own name; in the order:
// component, layer by name, A before B; each in the group of its component.
//
// Initial weights are keyed by name: A is uniform in +-1 / sqrt(in), which is kaiming_uniform with a = sqrt(5) as PEFT
// draws it: (2 u - 1) / sqrt(in), u = fill_uniform of RandomStream{derive_seed(seed, name), weight_init, 0, 0}. B is 0,
// so that training starts at the base itself.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "core/config.h"
#include "model/base_model.h"

namespace ldmtune::model {
struct BaseParts;
}

namespace ldmtune::adapt {

/// A weight of the base that factors can be added to.
struct LoraSite {
  std::string component;                   ///< unet | text_encoder | text_encoder_2
  std::string name;                        ///< checkpoint prefix: "mid_block.attentions.0.proj_in"
  std::vector<std::int64_t> weight_shape;  ///< (out, in), or (out, in, kernel, kernel) of a convolution

  std::string full_name() const { return component + "." + name; }
  /// Whether the model calls hooks after this layer: linears and 1x1 convolutions of the transformers. Factors of other
  /// layers can only be merged into the base.
  bool has_hook() const;
};

/// Every weight of the base's UNet and text encoders with two dimensions or more, by component and name.
std::vector<LoraSite> lora_sites(const model::BaseModel& base);
/// The same from the headers of a base's weight files, folder or single file, reading no weights. Errors: InputError
/// naming a file.
std::vector<LoraSite> lora_sites(const std::filesystem::path& base);
/// The same of a base's parts.
std::vector<LoraSite> lora_sites(const model::BaseParts& parts);

/// What lora.target_modules must say to choose these of the sites: the ends of their names, or where those would choose
/// more, the names.
std::string lora_targets(const std::vector<LoraSite>& chosen, const std::vector<LoraSite>& sites);

/// One layer's factors.
struct LoraModule {
  LoraSite site;
  std::int64_t rank = 0;
  double alpha = 0;

  double scale() const { return alpha / static_cast<double>(rank); }
  std::string down_name() const { return site.full_name() + ".lora_A.weight"; }
  std::string up_name() const { return site.full_name() + ".lora_B.weight"; }
  std::vector<std::int64_t> down_shape() const;
  std::vector<std::int64_t> up_shape() const;
};

class Lora final : public Adapter {
 public:
  explicit Lora(std::vector<LoraModule> modules) : modules_(std::move(modules)) {}
  /// The layers that config's targets name, all with its rank and alpha. Errors: InputError naming the option: a rank
  /// below 1, an alpha that is negative or not finite, a target that no layer of this base has, no target at all.
  static Lora from_config(const LoraConfig& config, const std::vector<LoraSite>& sites);

  const std::vector<LoraModule>& modules() const { return modules_; }
  std::vector<optim::ParameterSpec> parameters() const override;
  void initialize(const optim::Arena& arena, std::uint64_t seed) const override;
  /// Errors: Error where a module has no hook.
  std::unique_ptr<model::ModelHooks> hooks(const optim::Arena& arena, ForwardContext context) const override;
  bool trains_text_encoder() const override;
  /// Writes the layout of diffusers and PEFT (adapt/lora_file.h).
  void export_file(const optim::Arena& arena, const std::filesystem::path& file, const ExportInfo& info) const override;
  std::string file_extension() const override { return ".safetensors"; }

 private:
  std::vector<LoraModule> modules_;
};

}  // namespace ldmtune::adapt
