#include "cli/export_embedding.h"

#include "adapt/textual_inversion.h"
#include "core/config.h"
#include "core/error.h"

namespace ldmtune::cli {
namespace {

std::vector<std::string> tokens_of(const train::CheckpointState& state) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  const std::string option = "textual_inversion.placeholder_token";
  const auto found = state.config.find(option);
  if (found != state.config.end()) table.set({option, found->second, "state.json"});
  return config.textual_inversion.placeholder_token;
}

}  // namespace

void export_embeddings(const train::CheckpointState& state, const store::TensorMap& parameters,
                       const std::filesystem::path& checkpoint, const std::string& format, const std::string& token,
                       const std::filesystem::path& output) {
  const std::vector<std::string> tokens = tokens_of(state);
  const std::vector<std::string> names = adapt::embedding_names(tokens), second = adapt::embedding_names(tokens, 1);
  const std::size_t encoders = parameters.count(second.front()) > 0 ? 2 : 1;
  std::vector<adapt::Embedding> embeddings;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto found = parameters.find(names[i]);
    if (found == parameters.end() || encoders * tokens.size() != parameters.size() ||
        (encoders == 2 && parameters.count(second[i]) == 0)) {
      fail_input((checkpoint / "parameters.safetensors").string(), ": expected ", names[i],
                 " and nothing that state.json does not describe");
    }
    if (token.empty() || token == tokens[i]) {
      embeddings.push_back({tokens[i], found->second, {}, state.step, state.base_sha256, state.base_name});
      if (encoders == 2) embeddings.back().second_vectors = parameters.at(second[i]);
    }
  }
  if (embeddings.empty()) {
    std::string known;
    for (const std::string& one : tokens) known += (known.empty() ? "" : ", ") + one;
    fail_input("option token: ", checkpoint.string(), " trained ", known, ", found '", token, "'");
  }
  adapt::write_embeddings(output, adapt::parse_embedding_format(format), embeddings);
}

}  // namespace ldmtune::cli
