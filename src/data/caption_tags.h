#pragma once
// Captions that are lists of tags ("1girl, red hair, smiling"): shuffled and thinned out for each draw.

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/config.h"

namespace ldmtune::data {

class CaptionTags {
 public:
  /// Errors: InputError naming caption.keep_tokens (below 0) or caption.tag_dropout (no probability).
  explicit CaptionTags(const CaptionConfig& config);

  /// The caption as trained. Tags are split at ',', trimmed, empty ones dropped, and joined by ", ". The first
  /// keep_tokens stay where they are; of the n others, tag i (from 0) goes if uniform(i) of tag_dropout is below the
  /// probability, then those left are put in the order of permutation(caption_tags) of their number. Without shuffle
  /// and dropout the caption is left as it is.
  std::string apply(const std::string& caption, std::uint64_t seed, std::uint32_t dataset, std::uint64_t draw) const;

  bool is_active() const { return shuffle_ || dropout_ > 0; }

 private:
  bool shuffle_;
  std::size_t keep_;
  double dropout_;
};

}  // namespace ldmtune::data
