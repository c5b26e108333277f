// Options -> placeholders: which words are new, and where their vectors start.

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "adapt/textual_inversion.h"
#include "core/error.h"
#include "core/options.h"

namespace ldmtune::adapt {

namespace {

const at::Tensor& token_table(const model::BaseModel& base) {
  return base.text_encoder->parameters().at("text_model.embeddings.token_embedding.weight");
}

/// The i-th value of a list option that has one value for all placeholders, one for each, or none.
template <class T>
T value_of(const std::vector<T>& values, std::size_t i, std::size_t placeholders, const char* option, T fallback) {
  if (values.empty()) return fallback;
  if (values.size() != 1 && values.size() != placeholders) {
    fail_input("option textual_inversion.", option, ": expected 1 value or ", placeholders,
               ", one for each placeholder_token, found ", values.size());
  }
  return values[values.size() == 1 ? 0 : i];
}

/// 0 where num_vectors is not given.
std::int64_t vectors_of(const TextualInversionConfig& config, std::size_t i, const model::BaseModel& base) {
  if (config.num_vectors.empty()) return 0;
  const double number = value_of(config.num_vectors, i, config.placeholder_token.size(), "num_vectors", 0.0);
  const std::int64_t room = base.model_max_length - 2;
  if (!(number >= 1 && number <= static_cast<double>(room)) || number != std::floor(number)) {
    fail_input("option textual_inversion.num_vectors: expected a whole number from 1 to ", room,
               " (the tokens that a prompt of this base holds), found ", format_number(number));
  }
  return static_cast<std::int64_t>(number);
}

/// Vector i of n is the embedding of token i * length // n.
at::Tensor from_text(const std::string& text, std::int64_t vectors, const model::BaseModel& base) {
  const std::vector<std::int64_t> tokens = base.tokenizer->tokenize(text, /*added_tokens=*/false);
  if (tokens.empty()) return at::zeros({vectors, token_table(base).size(1)});
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < vectors; ++i) {
    rows.push_back(tokens[static_cast<std::size_t>(i * static_cast<std::int64_t>(tokens.size()) / vectors)]);
  }
  const at::Tensor& table = token_table(base);
  return table.index_select(0, at::tensor(rows, at::kLong).to(table.device())).to(at::kCPU, at::kFloat);
}

at::Tensor from_token(const std::string& token, std::int64_t vectors, const model::BaseModel& base) {
  const auto count = base.tokenizer->tokenize(token, /*added_tokens=*/false).size();
  if (count != 1) {
    fail_input("option textual_inversion.initializer_token: expected a single token of the base's vocabulary, '", token,
               "' is ", count, "; initializer_text takes any text");
  }
  return from_text(token, vectors, base);
}

/// What one placeholder's options say.
struct Start {
  std::string token;  ///< the placeholder
  std::string initializer, text, file;
  std::int64_t vectors = 0;  ///< 0: not given
};

at::Tensor from_file(const Start& start, const model::BaseModel& base) {
  const std::vector<Embedding> embeddings = read_embeddings(start.file);
  if (embeddings.size() != 1) {
    fail_input("option textual_inversion.initial_embedding: ", start.file, " holds ", embeddings.size(),
               " embeddings, expected one");
  }
  check_width(embeddings.front(), start.file, base);
  const std::int64_t found = embeddings.front().vectors.size(0);
  if (start.vectors != 0 && start.vectors != found) {
    fail_input("option textual_inversion.initial_embedding: ", start.file, " holds ", found,
               " vectors, num_vectors says ", start.vectors);
  }
  return embeddings.front().vectors.to(at::kFloat);
}

at::Tensor initial_vectors(const Start& start, const model::BaseModel& base) {
  const int ways = !start.file.empty() + !start.text.empty() + !start.initializer.empty();
  if (ways > 1) {
    fail_input("options textual_inversion.initializer_token, initializer_text and initial_embedding: placeholder ",
               start.token, " can start from one of them only");
  }
  if (!start.file.empty()) return from_file(start, base);
  const std::int64_t vectors = std::max<std::int64_t>(1, start.vectors);
  if (!start.initializer.empty()) return from_token(start.initializer, vectors, base);
  return from_text(start.text, vectors, base);
}

}  // namespace

void check_width(const Embedding& embedding, const std::filesystem::path& file, const model::BaseModel& base) {
  const std::int64_t width = base.text_encoder->hidden_size();
  if (embedding.second_vectors.defined()) {
    fail_input(file.string(), ": an embedding for SDXL's two text encoders (", embedding.vectors.size(1), " and ",
               embedding.second_vectors.size(1), " wide); ", base.folder.string(), " has one, ", width, " wide");
  }
  if (embedding.vectors.size(1) != width) {
    fail_input(file.string(), ": made for another base: its vectors are ", embedding.vectors.size(1),
               " wide, the text encoder of ", base.folder.string(), " is ", width, " wide");
  }
}

std::vector<Placeholder> make_placeholders(const TextualInversionConfig& config, const model::BaseModel& base) {
  const at::NoGradGuard no_grad;
  if (config.placeholder_token.empty()) {
    fail_input("option textual_inversion.placeholder_token: not given; name the new word, such as <zorp>");
  }
  std::vector<Placeholder> placeholders;
  std::set<std::string> seen;
  const std::size_t count = config.placeholder_token.size();
  for (std::size_t i = 0; i < count; ++i) {
    Start start;
    start.token = config.placeholder_token[i];
    start.vectors = vectors_of(config, i, base);
    start.initializer = value_of<std::string>(config.initializer_token, i, count, "initializer_token", "");
    start.text = value_of<std::string>(config.initializer_text, i, count, "initializer_text", "");
    start.file = value_of<std::string>(config.initial_embedding, i, count, "initial_embedding", "");
    if (!seen.insert(start.token).second) {
      fail_input("option textual_inversion.placeholder_token: ", start.token, " is there twice");
    }
    at::Tensor initial = initial_vectors(start, base).contiguous();
    const std::int64_t first = base.tokenizer->add_token(start.token, initial.size(0), base.text_encoder->vocab_size());
    placeholders.push_back({start.token, first, std::move(initial)});
  }
  return placeholders;
}

}  // namespace ldmtune::adapt
