#include "adapt/chained_hooks.h"

namespace ldmtune::adapt {

void ChainedHooks::begin_forward() {
  for (auto& link : links_) link->begin_forward();
}

void ChainedHooks::begin_text_encoder(std::int64_t index) {
  for (auto& link : links_) link->begin_text_encoder(index);
}

model::KeyValueContext ChainedHooks::attention_context(const at::Tensor& context, const model::AttentionSite& site) {
  model::KeyValueContext read{context, context};
  for (auto& link : links_) {
    const model::KeyValueContext of_key = link->attention_context(read.key, site);
    // Behind a hypernetwork key and value are two tensors, and each goes its own way.
    const bool same = read.key.is_same(read.value);
    read = {of_key.key, same ? of_key.value : link->attention_context(read.value, site).value};
  }
  return read;
}

at::Tensor ChainedHooks::linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) {
  at::Tensor changed = output;
  for (auto& link : links_) changed = link->linear(input, changed, name);
  return changed;
}

at::Tensor ChainedHooks::token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) {
  at::Tensor changed = embedded;
  for (auto& link : links_) changed = link->token_embedding(input_ids, changed);
  return changed;
}

std::unique_ptr<model::ModelHooks> chain_hooks(std::vector<std::unique_ptr<model::ModelHooks>> links) {
  std::erase_if(links, [](const auto& link) { return link == nullptr; });
  if (links.size() <= 1) return links.empty() ? nullptr : std::move(links.front());
  return std::make_unique<ChainedHooks>(std::move(links));
}

}  // namespace ldmtune::adapt
