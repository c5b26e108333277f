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

/// The second tokenizer's tokens, after the first one's.
void append(const WeightedTokens& more, WeightedTokens& tokens) {
  if (!more.weights.empty() || !tokens.weights.empty()) {
    tokens.weights.resize(tokens.input_ids.size(), 1.0F);
    tokens.weights.insert(tokens.weights.end(), more.weights.begin(), more.weights.end());
    tokens.weights.resize(tokens.input_ids.size() + more.input_ids.size(), 1.0F);
  }
  tokens.input_ids.insert(tokens.input_ids.end(), more.input_ids.begin(), more.input_ids.end());
  tokens.truncated = tokens.truncated || more.truncated;
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
  const std::int64_t most = model::max_clip_skip(base);
  if (options.clip_skip < 1 || options.clip_skip > most) {
    fail_input("clip_skip: expected 1 (the layer this base was trained on) to ", most,
               " (its text encoder's first), found ", options.clip_skip);
  }
}

PromptEncoder::Entry PromptEncoder::tokenized(const std::string& prompt, bool added_tokens, bool& truncated) const {
  const std::int64_t length = base_.model_max_length, chunks = options_.max_chunks;
  const auto by = [&](const model::CLIPTokenizer& tokenizer) {
    if (options_.weights) return encode_weighted(tokenizer, prompt, length, chunks, added_tokens);
    auto plain = tokenizer.encode(prompt, length, chunks, added_tokens);
    return WeightedTokens{std::move(plain.input_ids), {}, plain.truncated};
  };
  WeightedTokens tokens = by(*base_.tokenizer);
  if (base_.tokenizer_2) append(by(*base_.tokenizer_2), tokens);
  truncated = tokens.truncated;
  Entry made;
  made.input_ids = at::tensor(tokens.input_ids, at::kLong);
  if (!tokens.weights.empty()) made.weights = at::tensor(tokens.weights, at::kFloat);
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

model::TextConditioning PromptEncoder::encode_alone(const std::string& prompt, const Entry& cached) const {
  const at::NoGradGuard no_grad;
  const bool known = cached.input_ids.max().item<std::int64_t>() < base_.text_encoder->vocab_size();
  bool truncated = false;
  const Entry plain = known ? cached : tokenized(prompt, /*added_tokens=*/false, truncated);
  const at::Tensor weights = plain.weights.defined() ? plain.weights.unsqueeze(0) : at::Tensor();
  model::TextConditioning made = condition_ids(plain.input_ids.unsqueeze(0), nullptr, weights);
  made.context = made.context.squeeze(0);
  if (made.pooled.defined()) made.pooled = made.pooled.squeeze(0);
  return made;
}

model::TextConditioning PromptEncoder::condition_ids(const at::Tensor& input_ids, model::ModelHooks* hooks,
                                                     const at::Tensor& weights) const {
  model::TextOptions options{.hooks = hooks, .clip_skip = options_.clip_skip, .on_chunk = nullptr};
  if (weights.defined()) {
    options.on_chunk = [&](const at::Tensor& hidden, std::int64_t column) {
      return weighted_rows(hidden, weights.narrow(1, column, hidden.size(1)));
    };
  }
  return model::encode_text(base_, input_ids, options);
}

void PromptEncoder::make_room(std::size_t bytes) {
  if (context_bytes_ + bytes <= kCacheBytes) return;
  for (auto& [prompt, kept] : cache_) kept.context.reset();
  context_bytes_ = 0;
}

model::TextConditioning PromptEncoder::condition(const std::vector<std::string>& prompts) {
  std::vector<at::Tensor> rows, pooled;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) {
    Entry& cached = entry(prompt);
    if (!cached.context.defined()) {
      model::TextConditioning made = encode_alone(prompt, cached);
      make_room(made.context.nbytes());
      context_bytes_ += made.context.nbytes();
      cached.context = std::move(made.context);
      cached.pooled = std::move(made.pooled);
    }
    rows.push_back(cached.context);
    if (cached.pooled.defined()) pooled.push_back(cached.pooled);
  }
  return {at::stack(rows), pooled.empty() ? at::Tensor() : at::stack(pooled)};
}

}  // namespace ldmtune::pipeline
