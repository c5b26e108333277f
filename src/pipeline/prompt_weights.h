#pragma once
// AUTOMATIC1111's prompt syntax: (more), (more:1.3), [less], \( for a bracket that is meant, BREAK for a new chunk.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/clip_tokenizer.h"

namespace ldmtune::pipeline {

/// A stretch of a prompt and how strongly it counts, or a BREAK (text empty).
struct WeightedText {
  std::string text;
  double weight = 1.0;
  bool is_break = false;

  bool operator==(const WeightedText&) const = default;
};

/// (text) weighs 1.1, [text] 1 / 1.1, (text:W) W; brackets nest and multiply, one that is never closed reaches to the
/// end, one that was never opened is text. A backslash takes the next bracket or backslash as text. Neighbours of one
/// weight are joined. BREAK is a break inside brackets too (A1111 would read it as a word there). Never empty.
std::vector<WeightedText> parse_prompt(const std::string& prompt);

struct WeightedTokens {
  std::vector<std::int64_t> input_ids;  ///< max_chunks * model_max_length, as CLIPTokenizer::encode lays them out
  std::vector<float> weights;           ///< one a token; empty if all are 1
  bool truncated = false;
};
/// Stretches are tokenized one by one. Errors: InputError as CLIPTokenizer::encode's.
WeightedTokens encode_weighted(const model::CLIPTokenizer& tokenizer, const std::string& prompt,
                               std::int64_t model_max_length, std::int64_t max_chunks, bool added_tokens = true);

/// hidden (T, D) of one chunk times weights (T), then scaled so that its mean is what it was (A1111's "Original"
/// emphasis).
at::Tensor apply_weights(const at::Tensor& hidden, const at::Tensor& weights);

}  // namespace ldmtune::pipeline
