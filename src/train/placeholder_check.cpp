#include "train/placeholder_check.h"

#include "core/error.h"
#include "core/log.h"

namespace ldmtune::train {
namespace {

const char* template_remedy(std::size_t words) {
  if (words > 1) return "set caption.template to one that holds the words";  // [name] stands for a single one
  return "set caption.template to one with [name], such as jobs/templates/object.txt";
}

}  // namespace

void check_captions(const TrialSetup& setup, const adapt::TextualInversion& adapter) {
  const DataConfig& data = setup.config.data_options;
  const data::CaptionTemplates templates(setup.config.caption.template_text, setup.config.caption.name);
  std::vector<std::string> captions;
  const auto rows = setup.shared.dataset.training_rows(data.subset, data.subset_seed, data.weights);
  for (const auto& bucket : rows.samples) {
    for (const std::size_t sample : bucket) captions.push_back(templates.plain(setup.shared.dataset.caption(sample)));
  }
  for (const adapt::Placeholder& placeholder : adapter.placeholders()) {
    std::size_t holding = 0;
    for (const std::string& caption : captions) {
      holding += setup.shared.prompts.input_ids({caption}).eq(placeholder.first_id).any().item<bool>();
    }
    if (holding == 0) {
      fail_input("option textual_inversion.placeholder_token: none of the ", captions.size(),
                 " training captions holds ", placeholder.token, " (the first is \"", captions.front(),
                 "\"), so it would learn nothing; write it into the captions, or ",
                 template_remedy(adapter.placeholders().size()));
    }
    if (holding < captions.size()) {
      LDMTUNE_LOG(warning) << captions.size() - holding << " of " << captions.size() << " training captions lack "
                           << placeholder.token << " and do not train it";
    }
  }
}

}  // namespace ldmtune::train
