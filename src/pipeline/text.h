#pragma once
// Prompts -> context, with a cache: each distinct caption is tokenized once and, while the text encoder is frozen,
// encoded once.

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/base_model.h"

namespace ldmtune::pipeline {

class PromptEncoder {
 public:
  /// max_chunks chunks of base.model_max_length tokens, every prompt padded to all of them.
  /// Errors: InputError if max_chunks is not 1 to 64, or the base was loaded without its text encoder.
  PromptEncoder(const model::BaseModel& base, std::int64_t max_chunks);

  /// i64 (B, max_chunks * model_max_length).
  at::Tensor input_ids(const std::vector<std::string>& prompts);
  /// (B, T, D): chunks encoded separately and concatenated; no gradient; each prompt encoded alone (batch of 1), so
  /// that a context's bits do not depend on its neighbours.
  at::Tensor encode(const std::vector<std::string>& prompts);
  /// Distinct prompts so far that lost tokens to truncation.
  std::size_t truncated() const { return truncated_; }

 private:
  struct Entry {
    at::Tensor input_ids;  ///< i64 (L), CPU
    at::Tensor context;    ///< (T, D) on the text encoder's device; undefined until asked for
  };
  Entry& entry(const std::string& prompt);
  at::Tensor encode_chunks(const at::Tensor& input_ids) const;
  void make_room(std::size_t bytes);

  const model::BaseModel& base_;
  std::int64_t max_chunks_;
  std::size_t truncated_ = 0;
  std::size_t context_bytes_ = 0;
  std::map<std::string, Entry> cache_;
};

}  // namespace ldmtune::pipeline
