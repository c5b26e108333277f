#include "data/captions.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/text.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

constexpr std::string_view kFilewords = "[filewords]", kBraces = "{}", kName = "[name]";

bool holds(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// A path, rather than a template that ends in ".txt".
bool is_meant_as_file(const std::string& text) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(text, ignored)) return true;
  return text.ends_with(".txt") && !holds(text, kFilewords) && !holds(text, kBraces) && !holds(text, kName);
}

std::vector<std::string> read_templates(const std::string& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    fail_input("caption.template: expected a template or the path of a file of templates, found '", file,
               "', which does not exist");
  }
  const std::string content = store::read_text(file);
  std::vector<std::string> templates;
  for (const Line& line : nonblank_lines(content)) {
    check_caption(line.text, cat(file, ":", line.number));
    templates.emplace_back(trimmed(line.text));
  }
  if (templates.empty()) fail_input(file, " (caption.template): expected one template a line, found none");
  return templates;
}

}  // namespace

CaptionTemplates::CaptionTemplates(const std::string& text, std::string name, const std::string& remedy)
    : name_(std::move(name)) {
  if (trimmed(text).empty()) {
    templates_ = {std::string(kFilewords)};
  } else if (is_meant_as_file(text)) {
    templates_ = read_templates(text);
  } else {
    check_caption(text, "caption.template");
    templates_ = {text};
  }
  check_caption(name_, "caption.name");
  const bool uses_name = std::any_of(templates_.begin(), templates_.end(),
                                     [](const std::string& pattern) { return holds(pattern, kName); });
  if (uses_name && name_.empty()) {
    fail_input("caption.name: expected what stands for [name] in caption.template, found nothing; ", remedy);
  }
}

std::string CaptionTemplates::fill(const std::string& pattern, const std::string& caption) const {
  std::string filled;
  for (std::string_view rest = pattern; !rest.empty();) {
    if (rest.starts_with(kFilewords)) {
      filled += caption;
      rest.remove_prefix(kFilewords.size());
    } else if (rest.starts_with(kBraces)) {
      filled += caption;
      rest.remove_prefix(kBraces.size());
    } else if (rest.starts_with(kName)) {
      filled += name_;
      rest.remove_prefix(kName.size());
    } else {
      filled += rest.front();
      rest.remove_prefix(1);
    }
  }
  return filled;
}

std::string CaptionTemplates::apply(const std::string& caption, std::uint64_t seed, std::uint32_t dataset,
                                    std::uint64_t draw, double dropout) const {
  if (RandomStream{seed, Purpose::caption_dropout, dataset, draw}.uniform(0) < dropout) return {};
  const RandomStream choice{seed, Purpose::caption_template, dataset, draw};
  return fill(templates_[choice.integer(0, templates_.size())], caption);
}

std::string CaptionTemplates::plain(const std::string& caption) const { return fill(templates_.front(), caption); }

}  // namespace ldmtune::data
