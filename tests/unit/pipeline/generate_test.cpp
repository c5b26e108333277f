#include "pipeline/generate.h"

#include <span>

#include "core/random.h"
#include "pipeline/generate_shared.h"
#include "pipeline_fixture.h"

namespace ldmtune::pipeline {
namespace {

using Generate = PipelineTest;

GenerateRequest request(const std::string& prompt, std::uint64_t index = 0) {
  GenerateRequest made;
  made.prompt = prompt;
  made.seed = 5;
  made.index = index;
  made.num_inference_steps = 3;
  made.guidance_scale = 3.0;
  return made;
}

bool equal(const GenerateResult& a, const GenerateResult& b) {
  return at::equal(a.initial_noise, b.initial_noise) && at::equal(a.final_latent, b.final_latent) &&
         at::equal(a.image, b.image) && at::equal(a.context, b.context);
}

/// Counts forwards and shifts what to_k and to_v read.
class ShiftingHooks final : public model::ModelHooks {
 public:
  ShiftingHooks(int& forwards, double shift) : forwards_(forwards), shift_(shift) {}
  void begin_forward() override { ++forwards_; }
  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite&) override {
    return {context + shift_, context + shift_};
  }

 private:
  int& forwards_;
  double shift_;
};

TEST_F(Generate, GivesTheDocumentedShapesAndNoise) {
  PromptEncoder prompts(base(), 1);
  const GenerateResult result = generate(base(), prompts, request("rocket", 7));
  EXPECT_EQ(result.initial_noise.sizes(), (std::vector<std::int64_t>{4, 16, 16}));
  EXPECT_EQ(result.final_latent.sizes(), (std::vector<std::int64_t>{4, 16, 16}));
  EXPECT_EQ(result.image.sizes(), (std::vector<std::int64_t>{64, 64, 3}));
  EXPECT_EQ(result.image.scalar_type(), at::kByte);
  EXPECT_TRUE(at::equal(result.context, prompts.encode({"", "rocket"})));
  std::vector<float> noise(4 * 16 * 16);
  RandomStream{5, Purpose::initial_latent, 0, 7}.fill_normal(noise);
  EXPECT_TRUE(at::equal(result.initial_noise.flatten(), at::tensor(noise)));
}

TEST_F(Generate, SameRequestSameBitsWhateverCameBefore) {
  PromptEncoder first(base(), 1), second(base(), 1);
  const GenerateResult expected = generate(base(), first, request("rocket"));
  generate(base(), second, request("apple", 3));
  EXPECT_TRUE(equal(generate(base(), second, request("rocket")), expected));
  EXPECT_FALSE(equal(generate(base(), second, request("rocket", 1)), expected));
}

TEST_F(Generate, TakesAnotherSize) {
  PromptEncoder prompts(base(), 1);
  GenerateRequest wide = request("rocket");
  wide.width = 96;
  wide.height = 32;
  EXPECT_EQ(generate(base(), prompts, wide).image.sizes(), (std::vector<std::int64_t>{32, 96, 3}));
}

TEST_F(Generate, GuidanceOfOneRunsThePromptAlone) {
  PromptEncoder prompts(base(), 1);
  GenerateRequest plain = request("rocket");
  plain.guidance_scale = 1.0;
  std::int64_t rows = 0;
  const GenerateResult expected = generate(base(), prompts, plain, [&](std::int64_t asked) {
    rows = asked;
    return nullptr;
  });
  EXPECT_EQ(rows, 1);
  plain.negative_prompt = "apple";
  EXPECT_TRUE(at::equal(generate(base(), prompts, plain).image, expected.image));
}

TEST_F(Generate, HooksEnterEveryStep) {
  PromptEncoder prompts(base(), 1);
  const GenerateResult untouched = generate(base(), prompts, request("rocket"));
  int forwards = 0;
  std::int64_t rows = 0;
  const auto hooks = [&](double shift) -> HooksFactory {
    return [&, shift](std::int64_t asked) {
      rows = asked;
      return std::make_unique<ShiftingHooks>(forwards, shift);
    };
  };
  EXPECT_TRUE(equal(generate(base(), prompts, request("rocket"), hooks(0.0)), untouched));
  EXPECT_EQ(forwards, 3);
  EXPECT_EQ(rows, 2);
  EXPECT_FALSE(at::equal(generate(base(), prompts, request("rocket"), hooks(0.5)).image, untouched.image));
}

TEST_F(Generate, SharedRequestsEqualSingleOnes) {
  PromptEncoder prompts(base(), 1);
  std::size_t last = 0;
  const auto results = generate_shared(base(), prompts, {{request("rocket"), nullptr}, {request("apple", 1), nullptr}},
                                       *comm::self(), [&](std::size_t done) { last = done; });
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(last, 2u);
  EXPECT_TRUE(equal(results[1], generate(base(), prompts, request("apple", 1))));
}

TEST_F(Generate, RefusesWhatItCannotDraw) {
  PromptEncoder prompts(base(), 1);
  GenerateRequest bad = request("rocket");
  bad.width = 63;
  EXPECT_TRUE(contains(input_error([&] { generate(base(), prompts, bad); }), "width: expected a multiple of 4"));
  bad = request("rocket");
  bad.num_inference_steps = 0;
  EXPECT_TRUE(contains(input_error([&] { generate(base(), prompts, bad); }), "num_inference_steps"));
  bad = request("rocket");
  bad.sampler = "dpm";
  EXPECT_TRUE(contains(input_error([&] { generate(base(), prompts, bad); }), "euler"));
}

}  // namespace
}  // namespace ldmtune::pipeline
