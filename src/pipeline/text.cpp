#include "pipeline/text.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "pipeline/prompt_weights.h"

namespace ldmtune::pipeline {
namespace {

constexpr std::int64_t kMostChunks = 64;
// A million SD 1 captions would take 240 GB; beyond this, contexts are computed again. It changes speed only.
constexpr std::size_t kCacheBytes = std::size_t{1} << 30;

/// Each row on its own: a row's context must not depend on its neighbours. Rows without weights stay as they are.
at::Tensor weighted_rows(const at::Tensor& hidden, const at::Tensor& weights) {
  std::vector<at::Tensor> rows;
  for (std::int64_t row = 0; row < hidden.size(0); ++row) {
    const bool plain = weights[row].eq(1).all().item<bool>();
    rows.push_back(plain ? hidden[row] : apply_weights(hidden[row], weights[row]));
  }
  return at::stack(rows);
}

}  // namespace

PromptOptions prompt_options(const CaptionConfig& config) {
  return {.max_chunks = config.max_chunks, .weights = config.weights, .clip_skip = config.clip_skip};
}

PromptEncoder::PromptEncoder(const model::BaseModel& base, const PromptOptions& options)
    : base_(base), options_(options) {
  if (options.max_chunks < 1 || options.max_chunks > kMostChunks) {
    fail_input("max_chunks: expected 1 to ", kMostChunks, " chunks of tokens, found ", options.max_chunks);
  }
  if (!base.tokenizer || !base.text_encoder) {
    fail_input(base.folder.string(), ": prompts need the base's tokenizer and text encoder, which were not loaded");
  }
  const std::int64_t layers = base.text_encoder->num_hidden_layers();
  if (options.clip_skip < 1 || options.clip_skip > layers) {
    fail_input("clip_skip: expected 1 (the text encoder's last layer) to ", layers, " (its first), found ",
               options.clip_skip);
  }
}

PromptEncoder::Entry PromptEncoder::tokenized(const std::string& prompt, bool added_tokens, bool& truncated) const {
  const std::int64_t length = base_.model_max_length, chunks = options_.max_chunks;
  Entry made;
  if (options_.weights) {
    const auto encoded = encode_weighted(*base_.tokenizer, prompt, length, chunks, added_tokens);
    made.input_ids = at::tensor(encoded.input_ids, at::kLong);
    if (!encoded.weights.empty()) made.weights = at::tensor(encoded.weights, at::kFloat);
    truncated = encoded.truncated;
  } else {
    const auto encoded = base_.tokenizer->encode(prompt, length, chunks, added_tokens);
    made.input_ids = at::tensor(encoded.input_ids, at::kLong);
    truncated = encoded.truncated;
  }
  return made;
}

PromptEncoder::Entry& PromptEncoder::entry(const std::string& prompt) {
  const auto found = cache_.find(prompt);
  if (found != cache_.end()) return found->second;
  bool truncated = false;
  Entry made = tokenized(prompt, /*added_tokens=*/true, truncated);
  if (truncated) ++truncated_;
  return cache_.emplace(prompt, std::move(made)).first->second;
}

at::Tensor PromptEncoder::input_ids(const std::vector<std::string>& prompts) {
  std::vector<at::Tensor> rows;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) rows.push_back(entry(prompt).input_ids);
  return at::stack(rows);
}

at::Tensor PromptEncoder::token_weights(const std::vector<std::string>& prompts) {
  std::vector<at::Tensor> rows;
  bool plain = true;
  for (const std::string& prompt : prompts) {
    const Entry& cached = entry(prompt);
    plain = plain && !cached.weights.defined();
    rows.push_back(cached.weights.defined() ? cached.weights : at::ones(cached.input_ids.sizes(), at::kFloat));
  }
  return plain ? at::Tensor() : at::stack(rows);
}

at::Tensor PromptEncoder::encode_alone(const std::string& prompt, const Entry& cached) const {
  const at::NoGradGuard no_grad;
  const bool known = cached.input_ids.max().item<std::int64_t>() < base_.text_encoder->vocab_size();
  bool truncated = false;
  const Entry plain = known ? cached : tokenized(prompt, /*added_tokens=*/false, truncated);
  const at::Tensor weights = plain.weights.defined() ? plain.weights.unsqueeze(0) : at::Tensor();
  return encode_ids(plain.input_ids.unsqueeze(0), nullptr, weights).squeeze(0);
}

at::Tensor PromptEncoder::encode_ids(const at::Tensor& input_ids, model::ModelHooks* hooks,
                                     const at::Tensor& weights) const {
  const at::Device device = base_.text_encoder->parameters().begin()->second.device();
  const std::int64_t length = base_.model_max_length;
  std::vector<at::Tensor> chunks;
  for (std::int64_t begin = 0; begin < input_ids.size(1); begin += length) {
    const at::Tensor ids = input_ids.narrow(1, begin, length).contiguous().to(device);
    at::Tensor hidden = base_.text_encoder->forward(ids, hooks, options_.clip_skip);
    if (weights.defined()) hidden = weighted_rows(hidden, weights.narrow(1, begin, length));
    chunks.push_back(hidden);
  }
  return chunks.size() == 1 ? chunks.front() : at::cat(chunks, /*dim=*/1);
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
      at::Tensor context = encode_alone(prompt, cached);
      make_room(context.nbytes());
      context_bytes_ += context.nbytes();
      cached.context = std::move(context);
    }
    rows.push_back(cached.context);
  }
  return at::stack(rows);
}

}  // namespace ldmtune::pipeline
