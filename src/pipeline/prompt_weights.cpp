#include "pipeline/prompt_weights.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

namespace ldmtune::pipeline {
namespace {

constexpr double kBracket = 1.1;
constexpr std::string_view kBreak = "BREAK", kSpecial = "\\()[]:";

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Bytes beyond ASCII are letters here: there is no BREAK in "ÉBREAK".
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

std::size_t find_break(std::string_view text) {
  for (std::size_t at = text.find(kBreak); at != std::string_view::npos; at = text.find(kBreak, at + 1)) {
    const std::size_t end = at + kBreak.size();
    if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]))) return at;
  }
  return std::string_view::npos;
}

/// The W of ":W)" at the beginning of `text`, and how long that is.
struct ExplicitWeight {
  double weight = 1;
  std::size_t length = 0;
};

std::optional<ExplicitWeight> read_weight(std::string_view text) {
  std::size_t at = 1;
  const auto skip_blanks = [&] {
    while (at < text.size() && is_blank(text[at])) ++at;
  };
  skip_blanks();
  const std::size_t begin = at;
  if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
  while (at < text.size() && (text[at] == '.' || (text[at] >= '0' && text[at] <= '9'))) ++at;
  const char* first = text.data() + begin + (begin < at && text[begin] == '+' ? 1 : 0);
  const char* last = text.data() + at;
  skip_blanks();
  if (at == text.size() || text[at] != ')') return std::nullopt;
  ExplicitWeight found{1, at + 1};
  const auto [end, error] = std::from_chars(first, last, found.weight);
  if (error != std::errc{} || end != last || !std::isfinite(found.weight)) return std::nullopt;
  return found;
}

class Parser {
 public:
  std::vector<WeightedText> parse(std::string_view rest) {
    while (!rest.empty()) rest.remove_prefix(take(rest));
    for (const std::size_t begin : round_) multiply(begin, kBracket);
    for (const std::size_t begin : square_) multiply(begin, 1 / kBracket);
    return joined();
  }

 private:
  /// Reads one piece; returns its length.
  std::size_t take(std::string_view rest) {
    switch (rest.front()) {
      case '\\': {
        const bool escapes = rest.size() > 1 && kSpecial.substr(0, 5).find(rest[1]) != std::string_view::npos;
        if (escapes) add(rest.substr(1, 1));
        return escapes ? 2 : 1;
      }
      case '(':
        round_.push_back(parts_.size());
        return 1;
      case '[':
        square_.push_back(parts_.size());
        return 1;
      case ')':
        return close(round_, kBracket, rest.substr(0, 1));
      case ']':
        return close(square_, 1 / kBracket, rest.substr(0, 1));
      case ':':
        if (const auto found = read_weight(rest)) return close(round_, found->weight, rest.substr(0, found->length));
        add(rest.substr(0, 1));
        return 1;
      default: {
        const std::string_view run = rest.substr(0, rest.find_first_of(kSpecial));
        add_run(run);
        return run.size();
      }
    }
  }

  std::size_t close(std::vector<std::size_t>& opened, double weight, std::string_view as_written) {
    if (opened.empty()) {
      add(as_written);
    } else {
      multiply(opened.back(), weight);
      opened.pop_back();
    }
    return as_written.size();
  }

  void add_run(std::string_view run) {
    for (std::size_t at = find_break(run); at != std::string_view::npos; at = find_break(run)) {
      std::string_view before = run.substr(0, at);
      while (!before.empty() && is_blank(before.back())) before.remove_suffix(1);
      add(before);
      parts_.push_back({"", 1.0, true});
      run.remove_prefix(at + kBreak.size());
      while (!run.empty() && is_blank(run.front())) run.remove_prefix(1);
    }
    add(run);
  }

  void add(std::string_view text) { parts_.push_back({std::string(text), 1.0, false}); }

  void multiply(std::size_t begin, double weight) {
    for (std::size_t i = begin; i < parts_.size(); ++i) parts_[i].weight *= weight;
  }

  std::vector<WeightedText> joined() const {
    std::vector<WeightedText> result;
    for (const WeightedText& part : parts_) {
      if (part.is_break) {
        result.push_back({"", 1.0, true});
      } else if (!result.empty() && !result.back().is_break && result.back().weight == part.weight) {
        result.back().text += part.text;
      } else if (!part.text.empty()) {
        result.push_back(part);
      }
    }
    if (result.empty()) result.emplace_back();
    return result;
  }

  std::vector<WeightedText> parts_;
  std::vector<std::size_t> round_, square_;  ///< index of the first part inside each open bracket
};

/// Fills chunk after chunk: bos, up to `room` tokens, eos, padding.
class ChunkWriter {
 public:
  ChunkWriter(const model::CLIPTokenizer& tokenizer, std::int64_t model_max_length, std::int64_t max_chunks)
      : tokenizer_(tokenizer),
        length_(static_cast<std::size_t>(model_max_length)),
        chunks_(static_cast<std::size_t>(max_chunks)) {
    open();
  }

  void add(std::int64_t token, double weight) {
    if (ids_.size() == chunk_ * length_ + length_ - 1) next();
    if (chunk_ < chunks_) {
      ids_.push_back(token);
      weights_.push_back(static_cast<float>(weight));
    } else {
      truncated_ = true;
    }
  }

  void next() {
    close();
    if (++chunk_ < chunks_) open();
  }

  WeightedTokens finish() {
    for (close(); ++chunk_ < chunks_; close()) open();
    const bool plain = std::all_of(weights_.begin(), weights_.end(), [](float weight) { return weight == 1; });
    if (plain) weights_.clear();
    return {std::move(ids_), std::move(weights_), truncated_};
  }

 private:
  void open() {
    ids_.push_back(tokenizer_.bos_token_id());
    weights_.push_back(1);
  }
  void close() {
    if (chunk_ >= chunks_) return;
    ids_.push_back(tokenizer_.eos_token_id());
    ids_.resize((chunk_ + 1) * length_, tokenizer_.pad_token_id());
    weights_.resize(ids_.size(), 1);
  }

  const model::CLIPTokenizer& tokenizer_;
  std::size_t length_, chunks_, chunk_ = 0;
  std::vector<std::int64_t> ids_;
  std::vector<float> weights_;
  bool truncated_ = false;
};

}  // namespace

std::vector<WeightedText> parse_prompt(const std::string& prompt) { return Parser().parse(prompt); }

WeightedTokens encode_weighted(const model::CLIPTokenizer& tokenizer, const std::string& prompt,
                               std::int64_t model_max_length, std::int64_t max_chunks, bool added_tokens) {
  const std::vector<WeightedText> parts = parse_prompt(prompt);
  if (parts.size() == 1 && parts.front().weight == 1 && !parts.front().is_break) {
    auto encoded = tokenizer.encode(parts.front().text, model_max_length, max_chunks, added_tokens);
    return {std::move(encoded.input_ids), {}, encoded.truncated};
  }
  ChunkWriter writer(tokenizer, model_max_length, max_chunks);
  for (const WeightedText& part : parts) {
    if (part.is_break) {
      writer.next();
      continue;
    }
    for (const std::int64_t token : tokenizer.tokenize(part.text, added_tokens)) writer.add(token, part.weight);
  }
  return writer.finish();
}

at::Tensor apply_weights(const at::Tensor& hidden, const at::Tensor& weights) {
  const at::Tensor weighted = hidden * weights.to(hidden.options()).unsqueeze(-1);
  return weighted * (hidden.mean() / weighted.mean());
}

}  // namespace ldmtune::pipeline
