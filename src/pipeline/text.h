#pragma once
// Prompts -> context, with a cache: each distinct caption is tokenized once and, while the text encoder is frozen, encoded once.

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "model/base_model.h"

namespace ldmtune::pipeline {

class PromptEncoder {
 public:
  /// max_chunks chunks of base.model_max_length tokens, every prompt padded to all of them.
  PromptEncoder(const model::BaseModel& base, std::int64_t max_chunks);

  /// i64 (B, max_chunks * model_max_length).
  at::Tensor input_ids(const std::vector<std::string>& prompts);
  /// (B, T, D): chunks encoded separately and concatenated; no gradient; each prompt encoded alone (batch of 1), so that a
  /// context's bits do not depend on its neighbours.
  at::Tensor encode(const std::vector<std::string>& prompts);
  /// Distinct prompts so far that lost tokens to truncation.
  std::size_t truncated() const { return truncated_; }

 private:
  struct Entry {
    at::Tensor input_ids, context;
  };
  Entry& entry(const std::string& prompt);
  const model::BaseModel& base_;
  std::int64_t max_chunks_;
  std::size_t truncated_ = 0;
  std::map<std::string, Entry> cache_;
};

}  // namespace ldmtune::pipeline
