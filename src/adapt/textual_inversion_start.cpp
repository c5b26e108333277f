// Options -> placeholders: which words are new, and where their vectors start.

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "adapt/textual_inversion.h"
#include "core/error.h"
#include "core/options.h"
#include "model/base_outline.h"

namespace ldmtune::adapt {

namespace {

/// A text encoder with its tokenizer.
struct Encoder {
  const model::CLIPTextEncoder& text;
  model::CLIPTokenizer& tokenizer;

  const at::Tensor& table() const { return text.parameters().at("text_model.embeddings.token_embedding.weight"); }
};

std::vector<Encoder> encoders_of(const model::BaseModel& base) {
  std::vector<Encoder> encoders{{*base.text_encoder, *base.tokenizer}};
  if (base.text_encoder_2) encoders.push_back({*base.text_encoder_2, *base.tokenizer_2});
  return encoders;
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
std::int64_t vectors_of(const TextualInversionConfig& config, std::size_t i, std::int64_t room) {
  if (config.num_vectors.empty()) return 0;
  const double number = value_of(config.num_vectors, i, config.placeholder_token.size(), "num_vectors", 0.0);
  if (!(number >= 1 && number <= static_cast<double>(room)) || number != std::floor(number)) {
    fail_input("option textual_inversion.num_vectors: expected a whole number from 1 to ", room,
               " (the tokens that a prompt of this base holds), found ", format_number(number));
  }
  return static_cast<std::int64_t>(number);
}

/// Vector i of n is the embedding of token i * length // n.
at::Tensor from_text(const std::string& text, std::int64_t vectors, const Encoder& encoder) {
  const std::vector<std::int64_t> tokens = encoder.tokenizer.tokenize(text, /*added_tokens=*/false);
  const at::Tensor& table = encoder.table();
  if (tokens.empty()) return at::zeros({vectors, table.size(1)});
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < vectors; ++i) {
    rows.push_back(tokens[static_cast<std::size_t>(i * static_cast<std::int64_t>(tokens.size()) / vectors)]);
  }
  return table.index_select(0, at::tensor(rows, at::kLong).to(table.device())).to(at::kCPU, at::kFloat);
}

void expect_single_token(const std::string& token, const model::BaseModel& base) {
  const auto count = base.tokenizer->tokenize(token, /*added_tokens=*/false).size();
  if (count != 1) {
    fail_input("option textual_inversion.initializer_token: expected a single token of the base's vocabulary, '", token,
               "' is ", count, "; initializer_text takes any text");
  }
}

/// What one placeholder's options say.
struct Start {
  std::string token;  ///< the placeholder
  std::string initializer, text, file;
  std::int64_t vectors = 0;  ///< 0: not given
};

/// The file's only embedding whatever it is called, of several the one of the placeholder's name.
Embedding choose_embedding(std::vector<Embedding> embeddings, const Start& start) {
  if (embeddings.size() == 1) return std::move(embeddings.front());
  std::string words;
  for (Embedding& embedding : embeddings) {
    if (embedding.token == start.token) return std::move(embedding);
    words += (words.empty() ? "" : ", ") + embedding.token;
  }
  fail_input("option textual_inversion.initial_embedding: ", start.file, " holds ", embeddings.size(), " words, ",
             words, ", and none is ", start.token, ", the placeholder; name the placeholder as one of them, or ",
             "write the word to start from to a file of its own: ldmtune export ", start.file, " --token WORD");
}

/// Errors: InputError where the file has no embedding for the placeholder, or not as many vectors as asked for.
Embedding read_start(const Start& start) {
  Embedding embedding = choose_embedding(read_embeddings(start.file), start);
  const std::int64_t found = embedding.vectors.size(0);
  if (start.vectors != 0 && start.vectors != found) {
    fail_input("option textual_inversion.initial_embedding: ", start.token, " of ", start.file, " holds ", found,
               " vectors, num_vectors says ", start.vectors);
  }
  return embedding;
}

/// One tensor a text encoder.
std::vector<at::Tensor> initial_vectors(const Start& start, const model::BaseModel& base) {
  const int ways = !start.file.empty() + !start.text.empty() + !start.initializer.empty();
  if (ways > 1) {
    fail_input("options textual_inversion.initializer_token, initializer_text and initial_embedding: placeholder ",
               start.token, " can start from one of them only");
  }
  if (!start.file.empty()) {
    const Embedding embedding = read_start(start);
    check_width(embedding, start.file, base);
    if (!embedding.second_vectors.defined()) return {embedding.vectors};
    return {embedding.vectors, embedding.second_vectors};
  }
  if (!start.initializer.empty()) expect_single_token(start.initializer, base);
  const std::string& text = start.initializer.empty() ? start.text : start.initializer;
  std::vector<at::Tensor> vectors;
  for (const Encoder& encoder : encoders_of(base)) {
    vectors.push_back(from_text(text, std::max<std::int64_t>(1, start.vectors), encoder));
  }
  return vectors;
}

/// Errors: InputError naming lists of another length, words given twice, none at all. `room`: 0 if not known.
std::vector<Start> read_starts(const TextualInversionConfig& config, std::int64_t room) {
  if (config.placeholder_token.empty()) {
    fail_input("option textual_inversion.placeholder_token: not given; name the new word, such as <zorp>");
  }
  std::vector<Start> starts;
  std::set<std::string> seen;
  const std::size_t count = config.placeholder_token.size();
  for (std::size_t i = 0; i < count; ++i) {
    Start start;
    start.token = config.placeholder_token[i];
    start.vectors = vectors_of(config, i, room);
    start.initializer = value_of<std::string>(config.initializer_token, i, count, "initializer_token", "");
    start.text = value_of<std::string>(config.initializer_text, i, count, "initializer_text", "");
    start.file = value_of<std::string>(config.initial_embedding, i, count, "initial_embedding", "");
    if (!seen.insert(start.token).second) {
      fail_input("option textual_inversion.placeholder_token: ", start.token, " is there twice");
    }
    starts.push_back(std::move(start));
  }
  return starts;
}

}  // namespace

void check_width(const Embedding& embedding, const std::filesystem::path& file, const model::BaseModel& base) {
  const auto text = [](std::int64_t first, std::int64_t second) {
    return second == 0 ? cat(first, " wide")
                       : cat(first, " wide and, for SDXL's second text encoder, ", second, " wide");
  };
  const std::string found =
      text(embedding.vectors.size(1), embedding.second_vectors.defined() ? embedding.second_vectors.size(1) : 0);
  const std::string expected =
      text(base.text_encoder->hidden_size(), base.text_encoder_2 ? base.text_encoder_2->hidden_size() : 0);
  if (found == expected) return;
  fail_input(file.string(), ": made for another base: its vectors are ", found, ", the embeddings of ",
             base.folder.string(), " are ", expected);
}

Placeholder add_placeholder(const std::string& token, const std::vector<at::Tensor>& vectors,
                            const model::BaseModel& base) {
  const auto add = [&](const Encoder& encoder, const at::Tensor& own) {
    return std::pair(encoder.tokenizer.add_token(token, own.size(0), encoder.text.vocab_size()),
                     own.to(encoder.table().device(), at::kFloat).contiguous());
  };
  const std::vector<Encoder> encoders = encoders_of(base);
  Placeholder placeholder;
  placeholder.token = token;
  std::tie(placeholder.first_id, placeholder.initial) = add(encoders[0], vectors[0]);
  if (encoders.size() > 1) std::tie(placeholder.second_id, placeholder.second_initial) = add(encoders[1], vectors[1]);
  return placeholder;
}

std::vector<Placeholder> make_placeholders(const TextualInversionConfig& config, const model::BaseModel& base) {
  const at::NoGradGuard no_grad;
  std::vector<Placeholder> placeholders;
  for (const Start& start : read_starts(config, base.model_max_length - 2)) {
    placeholders.push_back(add_placeholder(start.token, initial_vectors(start, base), base));
  }
  return placeholders;
}

std::vector<optim::ParameterSpec> planned_parameters(const TextualInversionConfig& config,
                                                     const std::filesystem::path& base) {
  constexpr std::int64_t kAnyRoom = 4096;
  const std::vector<Start> starts = read_starts(config, kAnyRoom);
  std::vector<std::string> tokens;
  for (const Start& start : starts) tokens.push_back(start.token);
  std::vector<optim::ParameterSpec> specs;
  for (std::int64_t encoder = 0; encoder < 2; ++encoder) {
    const auto [json, source] = model::read_network_config(base, encoder == 0 ? "text_encoder" : "text_encoder_2");
    if (encoder == 1 && json.is_null()) break;
    if (!json.is_object() || !json.value("hidden_size", nlohmann::json()).is_number_integer()) {
      fail_input(source, ": expected a JSON object with a whole number hidden_size");
    }
    const auto width = json.at("hidden_size").get<std::int64_t>();
    const std::vector<std::string> names = embedding_names(tokens, encoder);
    for (std::size_t i = 0; i < starts.size(); ++i) {
      const std::int64_t vectors =
          starts[i].file.empty() ? std::max<std::int64_t>(1, starts[i].vectors) : read_start(starts[i]).vectors.size(0);
      specs.push_back({names[i], {vectors, width}, "embedding"});
    }
  }
  return specs;
}

}  // namespace ldmtune::adapt
