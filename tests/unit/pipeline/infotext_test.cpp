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

InfotextModel model() {
  InfotextModel made;
  made.base_name = "sd15";
  made.base_sha256 = "0123456789abcdef";
  return made;
}

TEST(Infotext, IsWhatAutomatic1111Reads) {
  EXPECT_EQ(infotext(request(), model(), 512, 768),
            "a cat, sitting\n"
            "Steps: 20, Sampler: DDIM, CFG scale: 3.5, Seed: 7, Image index: 0, Size: 512x768, "
            "Model hash: 0123456789, Model: sd15, Version: ldmtune");
}

TEST(Infotext, NamesNegativePromptAndHypernetwork) {
  GenerateRequest made = request();
  made.negative_prompt = "blurry";
  made.sampler = "euler";
  InfotextModel drawn = model();
  drawn.hypernetworks = {{"pencil: v2", 0.5}};
  const std::string text = infotext(made, drawn, 64, 64);
  EXPECT_NE(text.find("\nNegative prompt: blurry\nSteps: 20, Sampler: Euler"), std::string::npos);
  EXPECT_NE(text.find("Hypernet: \"pencil: v2\", Hypernet strength: 0.5"), std::string::npos);
}

TEST(Infotext, NamesEverythingThatDrew) {
  GenerateRequest made = request();
  made.sampler = "dpmpp_2m_karras";
  InfotextModel drawn = model();
  drawn.hypernetworks = {{"pencil", 0.5}, {"ink", 1}};
  drawn.loras = {{"style", 0.8}};
  drawn.embeddings = {"zorp", "blip"};
  drawn.clip_skip = 2;
  drawn.prompt_weights = false;
  const std::string text = infotext(made, drawn, 64, 64);
  EXPECT_NE(text.find("Sampler: DPM++ 2M Karras, "), std::string::npos);
  EXPECT_NE(text.find("Clip skip: 2, Emphasis: None, Hypernets: \"pencil: 0.5, ink: 1\", Lora: \"style: 0.8\", "
                      "TI: \"zorp, blip\", Version: ldmtune"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace ldmtune::pipeline
