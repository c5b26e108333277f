#pragma once
// Prompts -> context, with a cache: each distinct caption is tokenized once and, while the text encoder is frozen,
// encoded once.

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/base_model.h"
#include "model/hooks.h"
#include "model/text_conditioning.h"

namespace ldmtune::pipeline {

struct PromptOptions {
  std::int64_t max_chunks = 1;  ///< chunks of base.model_max_length tokens; every prompt is padded to all of them
  bool weights = false;         ///< read (word:1.1), [word] and BREAK as pipeline/prompt_weights.h says
  std::int64_t clip_skip = 1;   ///< layer -clip_skip of the text encoder is the context
};

/// As captions are read while training.
PromptOptions prompt_options(const CaptionConfig& config);

class PromptEncoder {
 public:
  /// Errors: InputError if max_chunks is not 1 to 64, the text encoder has no layer -clip_skip, or the base was loaded
  /// without its text encoder.
  PromptEncoder(const model::BaseModel& base, const PromptOptions& options);
  PromptEncoder(const model::BaseModel& base, std::int64_t max_chunks)
      : PromptEncoder(base, PromptOptions{.max_chunks = max_chunks}) {}

  /// i64 (B, L), L = max_chunks * model_max_length; SDXL: (B, 2 L), its second tokenizer's ids after the first one's.
  at::Tensor input_ids(const std::vector<std::string>& prompts);
  /// f32, as input_ids: how strongly each token counts; undefined if all count alike.
  at::Tensor token_weights(const std::vector<std::string>& prompts);
  /// (B, T, D) and, for SDXL, pooled (B, P): chunks encoded separately and concatenated; no gradient; each prompt
  /// encoded alone (batch of 1), so that a context's bits do not depend on its neighbours. New words
  /// (CLIPTokenizer::add_token) are read as text: the base does not know them.
  model::TextConditioning condition(const std::vector<std::string>& prompts);
  at::Tensor encode(const std::vector<std::string>& prompts) { return condition(prompts).context; }
  /// The same of input_ids through `hooks` (embeddings, text-encoder adapters), with gradient where grad mode is on;
  /// nothing is kept. `weights` as token_weights gives them.
  model::TextConditioning condition_ids(const at::Tensor& input_ids, model::ModelHooks* hooks,
                                        const at::Tensor& weights = {}) const;
  at::Tensor encode_ids(const at::Tensor& input_ids, model::ModelHooks* hooks, const at::Tensor& weights = {}) const {
    return condition_ids(input_ids, hooks, weights).context;
  }
  /// Distinct prompts so far that lost tokens to truncation.
  std::size_t truncated() const { return truncated_; }

 private:
  struct Entry {
    at::Tensor input_ids;  ///< i64 (L), CPU
    at::Tensor weights;    ///< f32 (L), CPU; undefined if all are 1
    at::Tensor context;    ///< (T, D) on the text encoder's device; undefined until asked for
    at::Tensor pooled;     ///< (P), with the context; SDXL only
  };
  Entry& entry(const std::string& prompt);
  Entry tokenized(const std::string& prompt, bool added_tokens, bool& truncated) const;
  model::TextConditioning encode_alone(const std::string& prompt, const Entry& entry) const;
  void make_room(std::size_t bytes);

  const model::BaseModel& base_;
  PromptOptions options_;
  std::size_t truncated_ = 0;
  std::size_t context_bytes_ = 0;
  std::map<std::string, Entry> cache_;
};

}  // namespace ldmtune::pipeline
