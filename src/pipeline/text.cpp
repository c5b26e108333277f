#include "pipeline/text.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"

namespace ldmtune::pipeline {
namespace {

constexpr std::int64_t kMostChunks = 64;
// A million SD 1 captions would take 240 GB; beyond this, contexts are computed again. It changes speed only.
constexpr std::size_t kCacheBytes = std::size_t{1} << 30;

}  // namespace

PromptEncoder::PromptEncoder(const model::BaseModel& base, std::int64_t max_chunks)
    : base_(base), max_chunks_(max_chunks) {
  if (max_chunks < 1 || max_chunks > kMostChunks) {
    fail_input("max_chunks: expected 1 to ", kMostChunks, " chunks of tokens, found ", max_chunks);
  }
  if (!base.tokenizer || !base.text_encoder) {
    fail_input(base.folder.string(), ": prompts need the base's tokenizer and text encoder, which were not loaded");
  }
}

PromptEncoder::Entry& PromptEncoder::entry(const std::string& prompt) {
  const auto found = cache_.find(prompt);
  if (found != cache_.end()) return found->second;
  const auto encoded = base_.tokenizer->encode(prompt, base_.model_max_length, max_chunks_);
  if (encoded.truncated) ++truncated_;
  return cache_.emplace(prompt, Entry{at::tensor(encoded.input_ids, at::kLong), {}}).first->second;
}

at::Tensor PromptEncoder::input_ids(const std::vector<std::string>& prompts) {
  std::vector<at::Tensor> rows;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) rows.push_back(entry(prompt).input_ids);
  return at::stack(rows);
}

at::Tensor PromptEncoder::encode_chunks(const at::Tensor& input_ids) const {
  const at::NoGradGuard no_grad;
  const at::Device device = base_.text_encoder->parameters().begin()->second.device();
  std::vector<at::Tensor> chunks;
  for (const at::Tensor& chunk : input_ids.view({max_chunks_, base_.model_max_length}).unbind()) {
    chunks.push_back(base_.text_encoder->forward(chunk.unsqueeze(0).to(device)).squeeze(0));
  }
  return chunks.size() == 1 ? chunks.front() : at::cat(chunks);
}

void PromptEncoder::make_room(std::size_t bytes) {
  if (context_bytes_ + bytes <= kCacheBytes) return;
  for (auto& [prompt, kept] : cache_) kept.context.reset();
  context_bytes_ = 0;
}

at::Tensor PromptEncoder::encode(const std::vector<std::string>& prompts) {
  std::vector<at::Tensor> rows;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) {
    Entry& cached = entry(prompt);
    if (!cached.context.defined()) {
      at::Tensor context = encode_chunks(cached.input_ids);
      make_room(context.nbytes());
      context_bytes_ += context.nbytes();
      cached.context = std::move(context);
    }
    rows.push_back(cached.context);
  }
  return at::stack(rows);
}

}  // namespace ldmtune::pipeline
