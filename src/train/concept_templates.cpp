#include "train/concept_templates.h"

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::train {

std::vector<std::string> instance_prompts(const TrainConfig& config) {
  if (config.method != "dreambooth") return {};
  std::vector<std::string> prompts;
  for (const std::string& prompt : split_list(config.dreambooth.instance_prompt, '|')) {
    if (!prompt.empty()) prompts.push_back(prompt);
  }
  return prompts;
}

ConceptTemplates::ConceptTemplates(const TrainConfig& config) {
  const std::vector<std::string> prompts = instance_prompts(config);
  if (prompts.size() > 1 && prompts.size() != config.data.size()) {
    fail_input("option dreambooth.instance_prompt: expected one prompt, or one for each of the ", config.data.size(),
               " datasets of data, found ", prompts.size());
  }
  if (prompts.empty()) templates_.emplace_back(config.caption.template_text, config.caption.name);
  for (const std::string& prompt : prompts) templates_.emplace_back(prompt, config.caption.name);
}

}  // namespace ldmtune::train
