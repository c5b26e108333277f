#include "data/caption_tags.h"

#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "data/text.h"

namespace ldmtune::data {
namespace {

std::vector<std::string_view> split_tags(std::string_view caption) {
  std::vector<std::string_view> tags;
  while (true) {
    const std::size_t comma = caption.find(',');
    const std::string_view tag = trimmed(caption.substr(0, comma));
    if (!tag.empty()) tags.push_back(tag);
    if (comma == std::string_view::npos) return tags;
    caption.remove_prefix(comma + 1);
  }
}

void append(std::string& text, std::string_view tag) {
  if (!text.empty()) text += ", ";
  text += tag;
}

}  // namespace

CaptionTags::CaptionTags(const CaptionConfig& config)
    : shuffle_(config.shuffle_tags), keep_(static_cast<std::size_t>(config.keep_tokens)), dropout_(config.tag_dropout) {
  if (config.keep_tokens < 0) {
    fail_input("option caption.keep_tokens: expected 0 or more tags, found ", config.keep_tokens);
  }
  if (!(dropout_ >= 0 && dropout_ <= 1)) {
    fail_input("option caption.tag_dropout: expected a probability from 0 to 1, found ", dropout_);
  }
}

std::string CaptionTags::apply(const std::string& caption, std::uint64_t seed, std::uint32_t dataset,
                               std::uint64_t draw) const {
  if (!is_active()) return caption;
  const std::vector<std::string_view> tags = split_tags(caption);
  std::string text;
  std::vector<std::string_view> left;
  const RandomStream dropout{seed, Purpose::tag_dropout, dataset, draw};
  for (std::size_t i = 0; i < tags.size(); ++i) {
    if (i < keep_) {
      append(text, tags[i]);
    } else if (!(dropout.uniform(i - keep_) < dropout_)) {
      left.push_back(tags[i]);
    }
  }
  if (!shuffle_) {
    for (const std::string_view tag : left) append(text, tag);
    return text;
  }
  const RandomStream order{seed, Purpose::caption_tags, dataset, draw};
  for (const std::uint32_t place : permutation(order, static_cast<std::uint32_t>(left.size()))) {
    append(text, left[place]);
  }
  return text;
}

}  // namespace ldmtune::data
