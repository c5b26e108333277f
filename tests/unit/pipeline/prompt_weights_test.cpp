#include "pipeline/prompt_weights.h"

#include "pipeline_fixture.h"

namespace ldmtune::pipeline {
namespace {

using Parts = std::vector<WeightedText>;

const WeightedText kBreakHere{"", 1.0, true};

TEST(ParsePrompt, PlainTextIsOnePiece) {
  EXPECT_EQ(parse_prompt("a red fox, running: fast"), (Parts{{"a red fox, running: fast"}}));
  EXPECT_EQ(parse_prompt(""), (Parts{{""}}));
}

TEST(ParsePrompt, BracketsWeighAndNest) {
  EXPECT_EQ(parse_prompt("a (red) fox"), (Parts{{"a "}, {"red", 1.1}, {" fox"}}));
  EXPECT_EQ(parse_prompt("[red]"), (Parts{{"red", 1 / 1.1}}));
  EXPECT_EQ(parse_prompt("(red:1.3)(blue: -0.5 )"), (Parts{{"red", 1.3}, {"blue", -0.5}}));
  EXPECT_EQ(parse_prompt("((red) fox:1.5)"), (Parts{{"red", 1.1 * 1.5}, {" fox", 1.5}}));
  EXPECT_EQ(parse_prompt("(a [b] c)"), (Parts{{"a ", 1.1}, {"b", 1 / 1.1 * 1.1}, {" c", 1.1}}));
}

TEST(ParsePrompt, UnbalancedBrackets) {
  EXPECT_EQ(parse_prompt("a (red fox"), (Parts{{"a "}, {"red fox", 1.1}}));
  EXPECT_EQ(parse_prompt("a) b] c:2)"), (Parts{{"a) b] c:2)"}})) << "never opened: text";
  EXPECT_EQ(parse_prompt("(a:1.2.3)"), (Parts{{"a:1.2.3", 1.1}})) << "no number: text";
  EXPECT_EQ(parse_prompt("[a:2]"), (Parts{{"a:2", 1 / 1.1}})) << "a weight takes round brackets";
}

TEST(ParsePrompt, BackslashesTakeBracketsAsText) {
  EXPECT_EQ(parse_prompt(R"(hatsune miku \(vocaloid\))"), (Parts{{"hatsune miku (vocaloid)"}}));
  EXPECT_EQ(parse_prompt(R"((\[a\]:1.2))"), (Parts{{"[a]", 1.2}}));
  EXPECT_EQ(parse_prompt(R"(a\\b\c)"), (Parts{{R"(a\bc)"}}));
}

TEST(ParsePrompt, BreakIsAWordOfItsOwn) {
  EXPECT_EQ(parse_prompt("a BREAK b"), (Parts{{"a"}, kBreakHere, {"b"}}));
  EXPECT_EQ(parse_prompt("BREAK"), (Parts{kBreakHere}));
  EXPECT_EQ(parse_prompt("BREAKFAST, break, LUNCHBREAK"), (Parts{{"BREAKFAST, break, LUNCHBREAK"}}));
  EXPECT_EQ(parse_prompt("(a BREAK b:1.2)"), (Parts{{"a", 1.2}, kBreakHere, {"b", 1.2}}));
}

class EncodeWeighted : public PipelineTest {
 protected:
  static WeightedTokens encode(const std::string& prompt, std::int64_t chunks = 1) {
    return encode_weighted(*base().tokenizer, prompt, base().model_max_length, chunks);
  }
};

TEST_F(EncodeWeighted, WithoutSyntaxIsThePlainEncoding) {
  const std::string long_text = "rocket and apple and cloud and umbrella and snowman and cat and dog and fish and tree";
  for (const std::string& text : {std::string("rocket, pencil"), std::string(), long_text}) {
    const auto plain = base().tokenizer->encode(text, base().model_max_length, 2);
    const WeightedTokens found = encode(text, 2);
    EXPECT_EQ(found.input_ids, plain.input_ids);
    EXPECT_EQ(found.truncated, plain.truncated);
    EXPECT_TRUE(found.weights.empty());
  }
}

TEST_F(EncodeWeighted, EachTokenHasItsWeight) {
  const WeightedTokens found = encode("a (rocket:1.5)");
  const auto plain = base().tokenizer->encode("a rocket", base().model_max_length, 1);
  EXPECT_EQ(found.input_ids, plain.input_ids);
  ASSERT_EQ(found.weights.size(), found.input_ids.size());
  const std::size_t before = 1 + base().tokenizer->tokenize("a").size();
  const std::size_t tokens = base().tokenizer->tokenize("rocket").size();
  for (std::size_t i = 0; i < found.weights.size(); ++i) {
    EXPECT_EQ(found.weights[i], i >= before && i < before + tokens ? 1.5f : 1.0f) << i;
  }
  EXPECT_TRUE(encode("((rocket:1))").weights.size() > 0);
  EXPECT_TRUE(encode("(rocket:1)").weights.empty()) << "weight 1 is no weight";
}

TEST_F(EncodeWeighted, BreakOpensTheNextChunk) {
  const auto length = static_cast<std::size_t>(base().model_max_length);
  const WeightedTokens found = encode("rocket BREAK (apple:2)", 3);
  ASSERT_EQ(found.input_ids.size(), 3 * length);
  for (const auto& [chunk, text] : {std::pair<std::size_t, std::string>{0, "rocket"}, {1, "apple"}, {2, ""}}) {
    const auto expected = base().tokenizer->encode(text, base().model_max_length, 1).input_ids;
    const auto begin = found.input_ids.begin() + static_cast<std::ptrdiff_t>(chunk * length);
    EXPECT_EQ(std::vector<std::int64_t>(begin, begin + static_cast<std::ptrdiff_t>(length)), expected) << chunk;
  }
  EXPECT_EQ(found.weights[length + 1], 2.0f);
  EXPECT_FALSE(found.truncated);
  EXPECT_TRUE(encode("rocket BREAK apple").truncated) << "there is one chunk";
  EXPECT_FALSE(encode("rocket BREAK").truncated) << "nothing was lost";
}

TEST(ApplyWeights, KeepsTheMean) {
  const at::Tensor hidden = at::arange(1, 25, at::kFloat).view({4, 6}), weights = at::tensor({1.0f, 2.0f, 0.5f, 1.0f});
  const at::Tensor found = apply_weights(hidden, weights);
  EXPECT_NEAR(found.mean().item<double>(), hidden.mean().item<double>(), 1e-5);
  const double factor = found[0][0].item<double>() / hidden[0][0].item<double>();
  EXPECT_TRUE(at::allclose(found, hidden * weights.unsqueeze(-1) * factor));
}

}  // namespace
}  // namespace ldmtune::pipeline
