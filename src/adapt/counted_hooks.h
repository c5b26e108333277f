#pragma once
// What trains beside the base, walked with counted tensors: the hooks of adapt as model/counted_networks.h calls them.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapt/hypernetwork.h"
#include "adapt/lora.h"
#include "model/counted_networks.h"

namespace ldmtune::adapt {

/// A hypernetwork's networks, which compute in f32.
class CountedHypernetwork final : public model::CountedHooks {
 public:
  explicit CountedHypernetwork(const HypernetworkSpec& spec) : spec_(spec) {}
  void begin_forward() override { text_.clear(); }
  std::pair<model::Counted, model::Counted> attention_context(model::MemoryTape& tape, const model::Counted& context,
                                                              std::int64_t width, bool is_cross) override;

 private:
  model::Counted apply(model::MemoryTape& tape, const model::Counted& context, std::int64_t width) const;

  HypernetworkSpec spec_;
  std::map<std::int64_t, std::pair<model::Counted, model::Counted>> text_;
};

/// A LoRA's factors beside linear layers, in f32.
class CountedLora final : public model::CountedHooks {
 public:
  /// The factors of this component.
  CountedLora(const Lora& lora, const std::string& component);
  model::Counted linear(model::MemoryTape& tape, const model::Counted& input, const model::Counted& output,
                        const std::string& name) override;

 private:
  struct Factors {
    double in, out, rank;
  };
  std::map<std::string, Factors> factors_;
};

/// New words: the embeddings need a gradient.
class CountedEmbedding final : public model::CountedHooks {
 public:
  model::Counted token_embedding(model::MemoryTape& tape, const model::Counted& embedded) override;
};

}  // namespace ldmtune::adapt
