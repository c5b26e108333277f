#include "cli/sample_adapters.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "adapt/chained_hooks.h"
#include "adapt/hypernetwork.h"
#include "adapt/lora_file.h"
#include "adapt/merge.h"
#include "core/error.h"
#include "core/log.h"

namespace ldmtune::cli {
namespace {

std::string list_of(const std::set<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

void expect_fitting(const std::set<std::int64_t>& widths, const std::set<std::int64_t>& base_widths,
                    const std::filesystem::path& file, const std::string& base, bool loud) {
  std::set<std::int64_t> missing;
  std::set_difference(widths.begin(), widths.end(), base_widths.begin(), base_widths.end(),
                      std::inserter(missing, missing.end()));
  if (missing.size() == widths.size()) {
    fail_input(file.string(), ": made for another base: its networks are for contexts of width ", list_of(widths),
               ", those of ", base, " are ", list_of(base_widths));
  }
  if (!missing.empty() && loud) {
    LDMTUNE_LOG(warning) << file.string() << ": its networks of width " << list_of(missing) << " have no use in "
                         << base << ", whose contexts are " << list_of(base_widths) << " wide";
  }
}

}  // namespace

void SampleAdapters::load(const SampleOptions& options, const SamplePlan& plan, const model::BaseModel& base,
                          at::Device device, bool loud) {
  const std::vector<adapt::LoraSite> sites = adapt::lora_sites(base);
  for (const SampleCell& cell : plan.cells) {
    for (const auto& [file, strength] : adapt::parse_weighted_files(cell.settings.hypernetwork, "hypernetwork")) {
      if (hypernetworks_.count(file) > 0) continue;
      adapt::HypernetworkFile read = adapt::read_hypernetwork(file, device);
      expect_fitting(read.network->spec().widths, base.unet->context_widths(), file, options.base.string(), loud);
      hypernetworks_.emplace(file, Loaded{std::move(read.network), std::move(read.arena)});
    }
    for (const auto& [file, strength] : adapt::parse_weighted_files(cell.settings.lora, "lora")) {
      if (loras_.count(file) > 0) continue;
      adapt::LoraFile read = adapt::read_lora(file, sites, device);
      adapt::expect_hooks(*read.lora, file);
      loras_.emplace(file, Loaded{std::move(read.lora), std::move(read.arena)});
    }
  }
  for (const SampleCell& cell : plan.cells) {
    const std::string& files = cell.settings.embedding;
    if (files.empty() || embeddings_.count(files) > 0) continue;
    // A word that several checkpoints hold keeps its place in the vocabulary.
    embeddings_.emplace(files, std::make_unique<adapt::LoadedEmbeddings>(split_list(files, ','), base));
  }
}

const adapt::LoadedEmbeddings* SampleAdapters::embeddings(const SampleSettings& settings) const {
  const auto found = embeddings_.find(settings.embedding);
  return found == embeddings_.end() ? nullptr : found->second.get();
}

std::string SampleAdapters::weighed(const std::string& prompt, const SampleSettings& settings) const {
  const adapt::LoadedEmbeddings* words = embeddings(settings);
  if (words == nullptr || settings.embedding_strength == 1) return prompt;
  std::string text = prompt;
  for (const adapt::Placeholder& word : words->placeholders()) {
    const std::string weighed = cat("(", word.token, ":", format_number(settings.embedding_strength), ")");
    for (std::size_t at = text.find(word.token); at != std::string::npos;
         at = text.find(word.token, at + weighed.size())) {
      text.replace(at, word.token.size(), weighed);
    }
  }
  return text;
}

std::vector<SampleAdapters::Use> SampleAdapters::uses(const SampleSettings& settings) const {
  std::vector<Use> found;
  const auto add = [&](const auto& from, const std::string& files, const char* option, double factor) {
    for (const auto& [file, strength] : adapt::parse_weighted_files(files, option)) {
      const double product = strength * factor;
      if (product != 0) found.push_back({&from.at(file), product});
    }
  };
  add(hypernetworks_, settings.hypernetwork, "hypernetwork", settings.hypernetwork_strength);
  add(loras_, settings.lora, "lora", settings.lora_strength);
  return found;
}

pipeline::HooksFactory SampleAdapters::hooks(const SampleSettings& settings) const {
  const std::vector<Use> used = uses(settings);
  const adapt::LoadedEmbeddings* words = embeddings(settings);
  if (used.empty() && words == nullptr) return nullptr;
  return [words, used](std::int64_t) {
    std::vector<std::unique_ptr<model::ModelHooks>> links;
    if (words != nullptr) links.push_back(words->hooks());
    for (const Use& use : used) {
      adapt::ForwardContext context;
      context.strength = use.strength;
      links.push_back(use.loaded->adapter->hooks(*use.loaded->arena, context));
    }
    return adapt::chain_hooks(std::move(links));
  };
}

bool SampleAdapters::in_text_encoder(const SampleSettings& settings) const {
  const std::vector<Use> used = uses(settings);
  return embeddings(settings) != nullptr || std::any_of(used.begin(), used.end(), [](const Use& use) {
           return use.loaded->adapter->trains_text_encoder();
         });
}

}  // namespace ldmtune::cli
