#pragma once
// Dreambooth (Ruiz et al., arXiv 2208.12242) and plain fine-tuning: the base's own weights train. In fp32 the modules'
// tensors become views of the arena, so that nothing is copied between an update and the next forward. In bf16 and fp16
// the arena holds the weights that train, in fp32, and the modules rounded copies of them.
//
// Parameters are named "<component>.<key>", component being unet, text_encoder or text_encoder_2 and key the
// checkpoint's own, in order of component and key; each is in the group of its component.

#include <ATen/ATen.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "core/config.h"
#include "model/base_model.h"
#include "store/tensor_map.h"

namespace ldmtune::adapt {

/// A weight of the base that trains.
struct BaseWeight {
  std::string component;
  std::string key;
  at::Tensor tensor;  ///< the one that the module holds

  std::string full_name() const { return component + "." + key; }
};

class Dreambooth final : public Adapter {
 public:
  explicit Dreambooth(std::vector<BaseWeight> weights) : weights_(std::move(weights)) {}
  /// The weights that config names. Those of the text encoder that no prompt's context depends on, since clip_skip
  /// leaves their layers out, are not among them. Errors: InputError naming the option: another train_unet than all,
  /// attention or none, nothing to train.
  static Dreambooth from_config(const DreamboothConfig& config, std::int64_t clip_skip, const model::BaseModel& base);

  const std::vector<BaseWeight>& weights() const { return weights_; }
  std::vector<optim::ParameterSpec> parameters() const override;
  /// The base's values. In mixed precision the base comes here in fp32, is cast next, and bound then.
  void initialize(const optim::Arena& arena, std::uint64_t seed) const override;
  void bind(optim::Arena& arena) const override;
  bool changes_base() const override { return true; }
  /// They change nothing: the weights are the model's own.
  std::unique_ptr<model::ModelHooks> hooks(const optim::Arena& arena, ForwardContext context) const override;
  bool trains_text_encoder() const override;
  /// Writes what trained as a .safetensors of "<component>.<key>", f32; `ldmtune export` makes whole models of it.
  /// Empty parts of `info` are left out.
  void export_file(const optim::Arena& arena, const std::filesystem::path& file, const ExportInfo& info) const override;
  std::string file_extension() const override { return ".safetensors"; }
  bool exports_plain_parameters() const override { return true; }

 private:
  std::vector<BaseWeight> weights_;
};

/// Makes UNet and text encoders compute in `dtype`.
void cast_networks(const model::BaseModel& base, at::ScalarType dtype);

/// What Dreambooth::from_config would train, from the headers of a base's weight files alone, folder or single file.
/// Errors: as there, or InputError naming a file.
std::vector<optim::ParameterSpec> dreambooth_parameters(const DreamboothConfig& config, std::int64_t clip_skip,
                                                        const std::filesystem::path& base);

/// Puts trained weights, named as Dreambooth names them, into the base. Errors: InputError naming `source` and the
/// first weight that the base has not, or has in another shape.
void load_trained_weights(const store::TensorMap& trained, const std::filesystem::path& source,
                          const model::BaseModel& base);

/// The base's weight "<component>.<key>". Errors: InputError naming `source` where the base has none of that name, or
/// one of another shape than `values`.
const at::Tensor& weight_of(const model::BaseModel& base, const std::string& name, const at::Tensor& values,
                            const std::string& source);

/// "unet", "text_encoder" or "text_encoder_2" -> its parameters under the published keys; null if the base has none.
const store::TensorMap* parameters_of(const model::BaseModel& base, const std::string& component);

}  // namespace ldmtune::adapt
