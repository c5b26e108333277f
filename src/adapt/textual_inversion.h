#pragma once
// Textual inversion (Gal et al., arXiv 2208.01618): new words whose embeddings are all that trains. A placeholder token
// stands for n vectors, which become n token ids behind the base's vocabulary; the base's own embeddings are never
// touched, so nothing has to be put back after a step.
//
// Parameters: "embedding" (n, D), or with several placeholders "embedding.<token>" for each, in their order; for SDXL's
// second text encoder then "embedding_2" or "embedding_2.<token>" (n, D2); all in the group "embedding". D is the text
// encoder's width.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "adapt/textual_inversion_file.h"
#include "core/config.h"
#include "model/base_model.h"

namespace ldmtune::adapt {

/// A word that the tokenizer knows already, and where its vectors start.
struct Placeholder {
  std::string token;
  std::int64_t first_id = 0;    ///< vector i belongs to id first_id + i
  at::Tensor initial;           ///< f32 (n, D)
  std::int64_t second_id = 0;   ///< the same for SDXL's second tokenizer and text encoder
  at::Tensor second_initial{};  ///< f32 (n, D2); undefined where there is none
};

/// Checks the options and makes the base's tokenizer know the placeholders. Vectors start as those of the initializer
/// (vector i of n as token i * length // n of the text), of an embedding file, or as zeros.
/// Errors: InputError naming the option: no placeholder, one that the base's vocabulary has already, lists of another
/// length, an initializer_token that is no single token, more vectors than a prompt has room for, a file of another
/// width than the base's.
std::vector<Placeholder> make_placeholders(const TextualInversionConfig& config, const model::BaseModel& base);

/// Makes the base's tokenizers know `token`, whose vectors these are, one tensor a text encoder. Errors: InputError for
/// a token that the vocabulary has already.
Placeholder add_placeholder(const std::string& token, const std::vector<at::Tensor>& vectors,
                            const model::BaseModel& base);

/// Shapes that these options train, from the base's config.json files alone (a plan loads no weights).
/// Errors: InputError naming the option or file.
std::vector<optim::ParameterSpec> planned_parameters(const TextualInversionConfig& config,
                                                     const std::filesystem::path& base);

/// Errors: InputError naming `file` and both widths where the embedding was made for another base.
void check_width(const Embedding& embedding, const std::filesystem::path& file, const model::BaseModel& base);

/// Parameter names of these tokens, in their order, for the first or (1) the second text encoder.
std::vector<std::string> embedding_names(const std::vector<std::string>& tokens, std::int64_t encoder = 0);

class TextualInversion final : public Adapter {
 public:
  explicit TextualInversion(std::vector<Placeholder> placeholders);

  std::vector<optim::ParameterSpec> parameters() const override;
  void initialize(const optim::Arena& arena, std::uint64_t seed) const override;
  std::unique_ptr<model::ModelHooks> hooks(const optim::Arena& arena, ForwardContext context) const override;
  bool trains_text_encoder() const override { return true; }
  /// A1111's .pt for one placeholder, diffusers' layout for several. The file's name is the token, since diffusers
  /// takes it as such, and not info.name.
  void export_file(const optim::Arena& arena, const std::filesystem::path& file, const ExportInfo& info) const override;
  std::string file_extension() const override { return placeholders_.size() == 1 ? ".pt" : ".safetensors"; }

  const std::vector<Placeholder>& placeholders() const { return placeholders_; }

 private:
  std::vector<Placeholder> placeholders_;
  std::vector<std::string> names_, second_names_;  ///< of their parameters; the latter empty without a second encoder
};

/// Embeddings read from files, ready to draw with: their tokens are added to the base's tokenizer.
class LoadedEmbeddings {
 public:
  /// Each of `files` is FILE or FILE=TOKEN (another word for a file's only embedding). Errors: InputError naming the
  /// file: of another width than the base's text encoder (naming both), tokens that the base has already.
  LoadedEmbeddings(const std::vector<std::string>& files, const model::BaseModel& base);
  /// Null where there are no embeddings.
  std::unique_ptr<model::ModelHooks> hooks() const;
  const std::vector<Placeholder>& placeholders() const { return placeholders_; }
  /// The file that each placeholder came from.
  const std::vector<std::filesystem::path>& files() const { return files_; }

 private:
  std::vector<Placeholder> placeholders_;
  std::vector<std::filesystem::path> files_;
};

}  // namespace ldmtune::adapt
