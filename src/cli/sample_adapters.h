#pragma once
// Hypernetworks, LoRAs and embeddings that `sample` draws with.

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
  /// Reads the files that the options name; the base's tokenizer learns the embeddings' words. Errors: InputError for
  /// files that do not fit the base; `loud` for the rank that warns of parts without use.
  void load(const SampleOptions& options, const model::BaseModel& base, at::Device device, bool loud);

  /// Hooks with every strength times `factor` (embeddings have none); none (the untouched base) where there is nothing
  /// to add. They refer to this object.
  pipeline::HooksFactory hooks(double factor) const;
  /// Whether the hooks change the text encoder too.
  bool in_text_encoder() const;

 private:
  struct Loaded {
    std::unique_ptr<adapt::Adapter> adapter;
    std::unique_ptr<optim::Arena> arena;
    double strength = 1.0;
  };
  std::unique_ptr<adapt::LoadedEmbeddings> embeddings_;  ///< null: none
  std::vector<Loaded> loaded_;                           ///< in the order in which they act
};

}  // namespace ldmtune::cli
