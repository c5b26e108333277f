#pragma once
// Names of LoRA tensors in the files of diffusers, PEFT and kohya.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "adapt/lora.h"

namespace ldmtune::adapt {

enum class LoraPart { down, up, alpha };

/// "unet.mid_block.attentions.0.proj_in.lora_A.weight" -> (unet.mid_block.attentions.0.proj_in, down).
struct LoraKey {
  std::string layer;
  LoraPart part;
};
/// Nothing where the key ends like no LoRA tensor.
std::optional<LoraKey> split_lora_key(const std::string& key);

/// "lora_unet_mid_block_attentions_0_proj_in"; the text encoder's start with lora_te_, or lora_te1_ where there are
/// two.
std::string kohya_name(const LoraSite& site, bool two_text_encoders);

/// Finds the layer that a file's key means.
class LoraKeyResolver {
 public:
  explicit LoraKeyResolver(const std::vector<LoraSite>& sites);
  /// Null if the base has no such layer.
  const LoraSite* find(const std::string& layer) const;

 private:
  const std::vector<LoraSite>& sites_;
  std::map<std::string, std::size_t> by_name_;  ///< full names, and kohya's in all spellings
};

/// Whether a layer is spelled as kohya spells it.
bool is_kohya_layer(const std::string& layer);

}  // namespace ldmtune::adapt
