#pragma once
// UNet2DConditionModel as diffusers has it (SD 1.x, SD 2.x, SDXL), configured by its config.json.

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "model/hooks.h"
#include "model/unet_config.h"
#include "model/weights.h"

namespace ldmtune::model {

/// What SDXL adds to the time embedding; both undefined for SD 1 and 2.
struct AddedConditioning {
  at::Tensor pooled;    ///< (B, pooled_width): the second text encoder's pooled embedding
  at::Tensor time_ids;  ///< (B, 6): original height and width, top and left of the crop, target height and width
};

/// What a picture was, for SDXL; each (height, width) or (top, left), in pixels.
struct ImageSizes {
  std::array<std::int64_t, 2> original, crop, target;
};
/// (N, 6) f32 on the CPU, in AddedConditioning's order.
at::Tensor time_ids(const std::vector<ImageSizes>& images);

class UNet2DConditionModel {
 public:
  /// Errors: InputError naming the config key and value where the config asks for what is not built.
  UNet2DConditionModel(const nlohmann::json& config, Weights& weights);
  ~UNet2DConditionModel();
  UNet2DConditionModel(UNet2DConditionModel&&) noexcept;

  /// sample (B, C, h, w); timestep (B) of any integer or float dtype; encoder_hidden_states (B, T, D); `added` exactly
  /// where takes_added_conditioning(). Returns (B, C_out, h, w).
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& timestep, const at::Tensor& encoder_hidden_states,
                     ModelHooks* hooks = nullptr, const AddedConditioning& added = {}) const;

  /// Gradient checkpointing (model/recompute.h) of residual and transformer blocks, from the next forward on. A forward's
  /// hooks must then live until its backward is done.
  void set_gradient_checkpointing(bool enabled);

  /// Parameters under the checkpoint's keys (shared with the modules: setting requires_grad on them trains them).
  const store::TensorMap& parameters() const;

  const UNetConfig& config() const;
  std::int64_t in_channels() const;
  std::int64_t cross_attention_dim() const;
  bool takes_added_conditioning() const;  ///< SDXL
  std::int64_t pooled_width() const;      ///< of AddedConditioning::pooled; 0 where none is taken
  std::int64_t sample_size() const;       ///< latent height and width the base was trained at
  /// Widths of the contexts that to_k/to_v read, ascending without repeats (SD 1: 320, 640, 768, 1280).
  std::set<std::int64_t> context_widths() const;
  /// All attention layers in the order of evaluation, with the width of what their to_k reads.
  struct AttentionLayer {
    AttentionSite site;
    std::int64_t context_width;
  };
  const std::vector<AttentionLayer>& attention_layers() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::model
