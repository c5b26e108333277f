#include "train/concept_templates.h"

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::train {
namespace {

/// What to do where [name] stands for nothing.
std::string remedy_of(const TrainConfig& config) {
  const std::vector<std::string>& words = config.textual_inversion.placeholder_token;
  if (config.method != "textual_inversion" || words.size() < 2) return "set caption.name";
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return cat("several words are learned (", list, "), and it stands for a single one only: write the words into ",
             "caption.template in place of [name], or set caption.name");
}

}  // namespace

std::vector<std::string> instance_prompts(const TrainConfig& config) {
  if (config.method != "dreambooth") return {};
  std::vector<std::string> prompts;
  for (const std::string& prompt : split_list(config.dreambooth.instance_prompt, '|')) {
    if (!prompt.empty()) prompts.push_back(prompt);
  }
  return prompts;
}

std::string concept_name(const TrainConfig& config) {
  const std::vector<std::string>& words = config.textual_inversion.placeholder_token;
  const bool learns_one_word = config.method == "textual_inversion" && words.size() == 1;
  return config.caption.name.empty() && learns_one_word ? words.front() : config.caption.name;
}

ConceptTemplates::ConceptTemplates(const TrainConfig& config) {
  const std::vector<std::string> prompts = instance_prompts(config);
  if (prompts.size() > 1 && prompts.size() != config.data.size()) {
    fail_input("option dreambooth.instance_prompt: expected one prompt, or one for each of the ", config.data.size(),
               " datasets of data, found ", prompts.size());
  }
  const std::string name = concept_name(config), remedy = remedy_of(config);
  if (prompts.empty()) templates_.emplace_back(config.caption.template_text, name, remedy);
  for (const std::string& prompt : prompts) templates_.emplace_back(prompt, name, remedy);
}

}  // namespace ldmtune::train
