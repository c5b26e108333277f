#pragma once
// Several adapters on one model: a hypernetwork beside LoRAs and embeddings.

#include <memory>
#include <utility>
#include <vector>

#include "model/hooks.h"

namespace ldmtune::adapt {

/// Each hook gets what the one before it gave.
class ChainedHooks final : public model::ModelHooks {
 public:
  explicit ChainedHooks(std::vector<std::unique_ptr<model::ModelHooks>> links) : links_(std::move(links)) {}

  void begin_forward() override;
  void begin_text_encoder(std::int64_t index) override;
  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite& site) override;
  at::Tensor linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) override;
  at::Tensor token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) override;

 private:
  std::vector<std::unique_ptr<model::ModelHooks>> links_;
};

/// The hooks in one object; null where there are none, and a single one as it is.
std::unique_ptr<model::ModelHooks> chain_hooks(std::vector<std::unique_ptr<model::ModelHooks>> links);

}  // namespace ldmtune::adapt
