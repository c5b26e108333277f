// model_tokenizer_tool FOLDER MODEL_MAX_LENGTH MAX_CHUNKS [TOKEN COUNT ...]: adds the tokens, reads a JSON list of texts from standard input, writes a
// JSON object: the tokenizer's ids and, for each text, its tokens and encoding. Bad input: message on standard error,
// exit 2.

#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/clip_tokenizer.h"

int main(int argc, char** argv) try {
  if (argc < 4 || argc % 2 != 0) {
    ldmtune::fail_input("usage: model_tokenizer_tool FOLDER MODEL_MAX_LENGTH MAX_CHUNKS [TOKEN COUNT ...] < texts.json");
  }
  ldmtune::model::CLIPTokenizer tokenizer(argv[1]);
  for (int i = 4; i < argc; i += 2) tokenizer.add_token(argv[i], std::stoll(argv[i + 1]));
  nlohmann::json out = {{"bos", tokenizer.bos_token_id()}, {"eos", tokenizer.eos_token_id()},
                        {"pad", tokenizer.pad_token_id()}, {"vocab_size", tokenizer.vocab_size()},
                        {"sha256", tokenizer.sha256()},    {"model_max_length", tokenizer.model_max_length()},
                        {"texts", nlohmann::json::array()}};
  for (const auto& text : nlohmann::json::parse(std::cin)) {
    const auto encoded = tokenizer.encode(text.get<std::string>(), std::stoll(argv[2]), std::stoll(argv[3]));
    out["texts"].push_back({{"tokens", tokenizer.tokenize(text.get<std::string>())},
                            {"input_ids", encoded.input_ids},
                            {"truncated", encoded.truncated}});
  }
  std::cout << out << std::endl;
  return 0;
} catch (const ldmtune::Error& error) {
  std::cerr << error.what() << std::endl;
  return static_cast<int>(error.code());
}
