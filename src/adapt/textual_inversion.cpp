#include "adapt/textual_inversion.h"

#include <ATen/core/grad_mode.h>

#include <array>
#include <utility>

#include "core/error.h"

namespace ldmtune::adapt {

namespace {

/// One placeholder's ids and the vectors that stand for them.
struct TokenVectors {
  std::int64_t first_id;
  at::Tensor vectors;  ///< (n, D)
};

class EmbeddingHooks final : public model::ModelHooks {
 public:
  /// Words of the first text encoder and, for SDXL, of the second.
  EmbeddingHooks(std::vector<TokenVectors> first, std::vector<TokenVectors> second)
      : words_{std::move(first), std::move(second)} {}

  void begin_text_encoder(std::int64_t index) override { encoder_ = static_cast<std::size_t>(index); }

  at::Tensor token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) override {
    at::Tensor result = embedded;
    for (const TokenVectors& token : words_.at(encoder_)) {
      const std::int64_t last = token.vectors.size(0) - 1;
      const at::Tensor index = input_ids - token.first_id;
      const at::Tensor is_token = ((index >= 0) & (index <= last)).unsqueeze(-1);
      // Looked up for every position, so that a batch without the word has a gradient too: zero.
      const at::Tensor own = at::embedding(token.vectors, index.clamp(0, last));
      result = at::where(is_token, own.to(embedded.scalar_type()), result);
    }
    return result;
  }

 private:
  std::array<std::vector<TokenVectors>, 2> words_;
  std::size_t encoder_ = 0;
};

bool has_second(const std::vector<Placeholder>& placeholders) { return placeholders.front().second_initial.defined(); }

}  // namespace

std::vector<std::string> embedding_names(const std::vector<std::string>& tokens, std::int64_t encoder) {
  const std::string stem = encoder == 0 ? "embedding" : "embedding_2";
  if (tokens.size() == 1) return {stem};
  std::vector<std::string> names;
  for (const std::string& token : tokens) names.push_back(stem + "." + token);
  return names;
}

TextualInversion::TextualInversion(std::vector<Placeholder> placeholders) : placeholders_(std::move(placeholders)) {
  std::vector<std::string> tokens;
  for (const Placeholder& placeholder : placeholders_) tokens.push_back(placeholder.token);
  names_ = embedding_names(tokens);
  if (has_second(placeholders_)) second_names_ = embedding_names(tokens, 1);
}

std::vector<optim::ParameterSpec> TextualInversion::parameters() const {
  std::vector<optim::ParameterSpec> specs;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    specs.push_back({names_[i], placeholders_[i].initial.sizes().vec(), "embedding"});
  }
  for (std::size_t i = 0; i < second_names_.size(); ++i) {
    specs.push_back({second_names_[i], placeholders_[i].second_initial.sizes().vec(), "embedding"});
  }
  return specs;
}

void TextualInversion::initialize(const optim::Arena& arena, std::uint64_t /*seed*/) const {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < names_.size(); ++i) arena.parameter(names_[i]).detach().copy_(placeholders_[i].initial);
  for (std::size_t i = 0; i < second_names_.size(); ++i) {
    arena.parameter(second_names_[i]).detach().copy_(placeholders_[i].second_initial);
  }
}

std::unique_ptr<model::ModelHooks> TextualInversion::hooks(const optim::Arena& arena, ForwardContext) const {
  std::vector<TokenVectors> first, second;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    first.push_back({placeholders_[i].first_id, arena.parameter(names_[i])});
  }
  for (std::size_t i = 0; i < second_names_.size(); ++i) {
    second.push_back({placeholders_[i].second_id, arena.parameter(second_names_[i])});
  }
  return std::make_unique<EmbeddingHooks>(std::move(first), std::move(second));
}

void TextualInversion::export_file(const optim::Arena& arena, const std::filesystem::path& file,
                                   const ExportInfo& info) const {
  std::vector<Embedding> embeddings;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    embeddings.push_back(
        {placeholders_[i].token, arena.parameter(names_[i]).detach(), {}, info.step, info.base_sha256, info.base_name});
    if (!second_names_.empty()) embeddings.back().second_vectors = arena.parameter(second_names_[i]).detach();
  }
  write_embeddings(file, embeddings.size() == 1 ? EmbeddingFormat::a1111 : EmbeddingFormat::diffusers, embeddings);
}

LoadedEmbeddings::LoadedEmbeddings(const std::vector<std::string>& files, const model::BaseModel& base) {
  for (const std::string& given : files) {
    const std::size_t equals = std::filesystem::exists(given) ? std::string::npos : given.rfind('=');
    const std::filesystem::path file = given.substr(0, equals);
    std::vector<Embedding> embeddings = read_embeddings(file);
    if (equals != std::string::npos) {
      if (embeddings.size() != 1) {
        fail_input(given, ": a token can be chosen for a single embedding, this file holds ", embeddings.size());
      }
      embeddings.front().token = given.substr(equals + 1);
    }
    for (const Embedding& embedding : embeddings) {
      check_width(embedding, file, base);
      std::vector<at::Tensor> vectors{embedding.vectors};
      if (embedding.second_vectors.defined()) vectors.push_back(embedding.second_vectors);
      placeholders_.push_back(add_placeholder(embedding.token, vectors, base));
      files_.push_back(file);
    }
  }
}

std::unique_ptr<model::ModelHooks> LoadedEmbeddings::hooks() const {
  if (placeholders_.empty()) return nullptr;
  std::vector<TokenVectors> first, second;
  for (const Placeholder& placeholder : placeholders_) {
    first.push_back({placeholder.first_id, placeholder.initial});
    if (placeholder.second_initial.defined()) second.push_back({placeholder.second_id, placeholder.second_initial});
  }
  return std::make_unique<EmbeddingHooks>(std::move(first), std::move(second));
}

}  // namespace ldmtune::adapt
