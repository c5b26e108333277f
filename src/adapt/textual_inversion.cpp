#include "adapt/textual_inversion.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
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
  explicit EmbeddingHooks(std::vector<TokenVectors> tokens) : tokens_(std::move(tokens)) {}

  at::Tensor token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) override {
    at::Tensor result = embedded;
    for (const TokenVectors& token : tokens_) {
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
  std::vector<TokenVectors> tokens_;
};

}  // namespace

std::vector<std::string> embedding_names(const std::vector<std::string>& tokens) {
  if (tokens.size() == 1) return {"embedding"};
  std::vector<std::string> names;
  for (const std::string& token : tokens) names.push_back("embedding." + token);
  return names;
}

TextualInversion::TextualInversion(std::vector<Placeholder> placeholders) : placeholders_(std::move(placeholders)) {
  std::vector<std::string> tokens;
  for (const Placeholder& placeholder : placeholders_) tokens.push_back(placeholder.token);
  names_ = embedding_names(tokens);
}

std::vector<optim::ParameterSpec> TextualInversion::parameters() const {
  std::vector<optim::ParameterSpec> specs;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    specs.push_back({names_[i], placeholders_[i].initial.sizes().vec(), "embedding"});
  }
  return specs;
}

void TextualInversion::initialize(const optim::Arena& arena, std::uint64_t /*seed*/) const {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < names_.size(); ++i) arena.parameter(names_[i]).detach().copy_(placeholders_[i].initial);
}

std::unique_ptr<model::ModelHooks> TextualInversion::hooks(const optim::Arena& arena, ForwardContext) const {
  std::vector<TokenVectors> tokens;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    tokens.push_back({placeholders_[i].first_id, arena.parameter(names_[i])});
  }
  return std::make_unique<EmbeddingHooks>(std::move(tokens));
}

void TextualInversion::export_file(const optim::Arena& arena, const std::filesystem::path& file,
                                   const ExportInfo& info) const {
  std::vector<Embedding> embeddings;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    embeddings.push_back(
        {placeholders_[i].token, arena.parameter(names_[i]).detach(), {}, info.step, info.base_sha256, info.base_name});
  }
  write_embeddings(file, embeddings.size() == 1 ? EmbeddingFormat::a1111 : EmbeddingFormat::diffusers, embeddings);
}

LoadedEmbeddings::LoadedEmbeddings(const std::vector<std::string>& files, const model::BaseModel& base) {
  const at::Tensor& table = base.text_encoder->parameters().at("text_model.embeddings.token_embedding.weight");
  for (const std::string& given : files) {
    const std::size_t equals = given.find('=');
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
      const std::int64_t first =
          base.tokenizer->add_token(embedding.token, embedding.vectors.size(0), base.text_encoder->vocab_size());
      placeholders_.push_back({embedding.token, first, embedding.vectors.to(table.device(), at::kFloat)});
    }
  }
}

std::unique_ptr<model::ModelHooks> LoadedEmbeddings::hooks() const {
  if (placeholders_.empty()) return nullptr;
  std::vector<TokenVectors> tokens;
  for (const Placeholder& placeholder : placeholders_) tokens.push_back({placeholder.first_id, placeholder.initial});
  return std::make_unique<EmbeddingHooks>(std::move(tokens));
}

}  // namespace ldmtune::adapt
