#include "pipeline/infotext.h"

#include <gtest/gtest.h>

namespace ldmtune::pipeline {
namespace {

GenerateRequest request() {
  GenerateRequest made;
  made.prompt = "a cat, sitting";
  made.seed = 7;
  made.num_inference_steps = 20;
  made.guidance_scale = 3.5;
  return made;
}

TEST(Infotext, IsWhatAutomatic1111Reads) {
  EXPECT_EQ(infotext(request(), {"sd15", "0123456789abcdef", "", 1.0}, 512, 768),
            "a cat, sitting\n"
            "Steps: 20, Sampler: DDIM, CFG scale: 3.5, Seed: 7, Image index: 0, Size: 512x768, "
            "Model hash: 0123456789, Model: sd15, Version: ldmtune");
}

TEST(Infotext, NamesNegativePromptAndHypernetwork) {
  GenerateRequest made = request();
  made.negative_prompt = "blurry";
  made.sampler = "euler";
  const std::string text = infotext(made, {"sd15", "00", "pencil: v2", 0.5}, 64, 64);
  EXPECT_NE(text.find("\nNegative prompt: blurry\nSteps: 20, Sampler: Euler"), std::string::npos);
  EXPECT_NE(text.find("Hypernet: \"pencil: v2\", Hypernet strength: 0.5"), std::string::npos);
}

}  // namespace
}  // namespace ldmtune::pipeline
