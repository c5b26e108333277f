#pragma once
// Hypernetworks, LoRAs and embeddings that `sample` draws with.

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "adapt/textual_inversion.h"
#include "cli/sample_options.h"
#include "model/base_model.h"
#include "pipeline/generate.h"

namespace ldmtune::cli {

class SampleAdapters {
 public:
  /// Reads the files that the plan's cells and the options name, each once; the base's tokenizer learns the embeddings'
  /// words. Errors: InputError for files that do not fit the base; `loud` for the rank that warns of parts without use.
  void load(const SampleOptions& options, const SamplePlan& plan, const model::BaseModel& base, at::Device device,
            bool loud);

  /// Hooks of a cell's files, first the embeddings, then hypernetworks, then LoRAs, each in order; none (the untouched
  /// base) where there is nothing to add. They refer to this object.
  pipeline::HooksFactory hooks(const SampleSettings& settings) const;
  /// Whether the hooks change the text encoder too.
  bool in_text_encoder(const SampleSettings& settings) const;
  /// `prompt` with the embeddings' words weighed, as in (word:0.8), where a cell says so.
  std::string weighed(const std::string& prompt, const SampleSettings& settings) const;
  /// The embeddings that a cell draws with; null: none.
  const adapt::LoadedEmbeddings* embeddings(const SampleSettings& settings) const;

 private:
  struct Loaded {
    std::unique_ptr<adapt::Adapter> adapter;
    std::unique_ptr<optim::Arena> arena;
  };
  /// A file with the strength at which a cell uses it.
  struct Use {
    const Loaded* loaded = nullptr;
    double strength = 1.0;
  };
  std::vector<Use> uses(const SampleSettings& settings) const;

  std::map<std::string, std::unique_ptr<adapt::LoadedEmbeddings>> embeddings_;  ///< by SampleSettings::embedding
  std::map<std::filesystem::path, Loaded> hypernetworks_, loras_;
};

}  // namespace ldmtune::cli
