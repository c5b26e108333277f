#include "pipeline/text.h"

#include "pipeline_fixture.h"

namespace ldmtune::pipeline {
namespace {

using PromptEncoderTest = PipelineTest;

const std::string kLong =
    "rocket and apple and cloud and umbrella and snowman and cat and dog and fish and tree and star and moon and sun";

TEST_F(PromptEncoderTest, ContextIsTheTextEncodersOutput) {
  PromptEncoder prompts(base(), 1);
  const at::Tensor ids = prompts.input_ids({"rocket"});
  ASSERT_EQ(ids.sizes(), (std::vector<std::int64_t>{1, base().model_max_length}));
  EXPECT_EQ(ids[0][0].item<std::int64_t>(), base().tokenizer->bos_token_id());
  EXPECT_TRUE(at::equal(prompts.encode({"rocket"}), base().text_encoder->forward(ids)));
}

TEST_F(PromptEncoderTest, BitsDoNotDependOnNeighboursOrRepeats) {
  PromptEncoder alone(base(), 1), together(base(), 1);
  const at::Tensor expected = at::cat({alone.encode({"a"}), alone.encode({"rocket"}), alone.encode({"a"})});
  EXPECT_TRUE(at::equal(together.encode({"a", "rocket", "a"}), expected));
  EXPECT_TRUE(at::equal(together.encode({"a", "rocket", "a"}), expected));
}

TEST_F(PromptEncoderTest, LongPromptsFillChunksThatAreEncodedSeparately) {
  const std::int64_t length = base().model_max_length;
  PromptEncoder prompts(base(), 3);
  const at::Tensor ids = prompts.input_ids({kLong});
  ASSERT_EQ(ids.size(1), 3 * length);
  const at::Tensor context = prompts.encode({kLong});
  ASSERT_EQ(context.sizes(), (std::vector<std::int64_t>{1, 3 * length, base().text_encoder->hidden_size()}));
  for (std::int64_t chunk = 0; chunk < 3; ++chunk) {
    const at::Tensor expected = base().text_encoder->forward(ids.narrow(1, chunk * length, length));
    EXPECT_TRUE(at::equal(context.narrow(1, chunk * length, length), expected)) << chunk;
    EXPECT_EQ(ids[0][chunk * length].item<std::int64_t>(), base().tokenizer->bos_token_id());
  }
  EXPECT_EQ(prompts.truncated(), 0u);
}

TEST_F(PromptEncoderTest, CountsDistinctTruncatedPrompts) {
  PromptEncoder prompts(base(), 1);
  prompts.encode({kLong, "rocket", kLong});
  prompts.input_ids({kLong});
  EXPECT_EQ(prompts.truncated(), 1u);
}

TEST_F(PromptEncoderTest, WeightsAreReadOnlyWhereAskedFor) {
  PromptEncoder literal(base(), 1), weighted(base(), {.weights = true});
  EXPECT_FALSE(literal.token_weights({"a (rocket)"}).defined());
  EXPECT_FALSE(weighted.token_weights({"a rocket"}).defined());
  EXPECT_TRUE(at::equal(weighted.encode({"a rocket"}), literal.encode({"a rocket"})));
  EXPECT_FALSE(at::equal(weighted.input_ids({"a (rocket)"}), literal.input_ids({"a (rocket)"})));
  const at::Tensor both = weighted.token_weights({"a rocket", "a (rocket:2)"});
  ASSERT_EQ(both.sizes(), (std::vector<std::int64_t>{2, base().model_max_length}));
  EXPECT_TRUE(at::equal(both[0], at::ones({base().model_max_length})));
  EXPECT_EQ(both[1].max().item<float>(), 2.0f);
}

TEST_F(PromptEncoderTest, IdsWithWeightsGiveTheSameContext) {
  PromptEncoder prompts(base(), {.max_chunks = 2, .weights = true, .clip_skip = 2});
  const std::vector<std::string> texts{"a rocket", "a [rocket] BREAK (apple:1.7)"};
  const at::Tensor expected = prompts.encode(texts);
  const at::Tensor found = prompts.encode_ids(prompts.input_ids(texts), nullptr, prompts.token_weights(texts));
  EXPECT_TRUE(at::allclose(found, expected, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(prompts.encode_ids(prompts.input_ids(texts), nullptr), expected, 1e-2, 1e-2));
}

TEST_F(PromptEncoderTest, ClipSkipTakesAnEarlierLayer) {
  PromptEncoder last(base(), 1), skipping(base(), {.clip_skip = 2});
  const at::Tensor ids = last.input_ids({"rocket"});
  EXPECT_TRUE(at::equal(skipping.encode({"rocket"}), base().text_encoder->forward(ids, nullptr, 2)));
  EXPECT_FALSE(at::allclose(skipping.encode({"rocket"}), last.encode({"rocket"})));
}

struct OnesForNewWords : model::ModelHooks {
  explicit OnesForNewWords(std::int64_t known) : vocab_size(known) {}
  at::Tensor token_embedding(const at::Tensor& input_ids, const at::Tensor& embedded) override {
    return at::where((input_ids >= vocab_size).unsqueeze(-1), at::ones_like(embedded), embedded);
  }
  std::int64_t vocab_size;
};

TEST_F(PromptEncoderTest, TheUntouchedBaseReadsNewWordsAsText) {
  PromptEncoder before(base(), 1);
  const std::string text = "a <text-test-word> rocket";
  const at::Tensor expected = before.encode({text});
  base().tokenizer->add_token("<text-test-word>", 2, base().text_encoder->vocab_size());
  PromptEncoder prompts(base(), 1), weighted(base(), {.weights = true});
  EXPECT_EQ(prompts.input_ids({text}).ge(base().text_encoder->vocab_size()).sum().item<std::int64_t>(), 2);
  EXPECT_TRUE(at::equal(prompts.encode({text}), expected));
  EXPECT_TRUE(at::equal(weighted.encode({text}), expected));
  OnesForNewWords hooks(base().text_encoder->vocab_size());
  const at::Tensor found = prompts.encode_ids(prompts.input_ids({text}), &hooks);
  EXPECT_EQ(found.sizes(), expected.sizes());
  EXPECT_FALSE(at::allclose(found, expected));
}

TEST_F(PromptEncoderTest, RefusesWhatItCannotDo) {
  EXPECT_TRUE(contains(input_error([] { PromptEncoder(base(), {.clip_skip = 99}); }), "clip_skip"));
  EXPECT_THROW(PromptEncoder(base(), 0), InputError);
  EXPECT_THROW(PromptEncoder(base(), 65), InputError);
  EXPECT_THROW(PromptEncoder(model::BaseModel{}, 1), InputError);
}

}  // namespace
}  // namespace ldmtune::pipeline
