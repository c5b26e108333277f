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

TEST_F(PromptEncoderTest, RefusesWhatItCannotDo) {
  EXPECT_THROW(PromptEncoder(base(), 0), InputError);
  EXPECT_THROW(PromptEncoder(base(), 65), InputError);
  EXPECT_THROW(PromptEncoder(model::BaseModel{}, 1), InputError);
}

}  // namespace
}  // namespace ldmtune::pipeline
