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
  made.base_hash = "0123456789";
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
  drawn.hypernetworks = {{"pencil: v2", 0.5, "abcdef0123"}};
  const std::string text = infotext(made, drawn, 64, 64);
  EXPECT_NE(text.find("\nNegative prompt: blurry\nSteps: 20, Sampler: Euler"), std::string::npos);
  EXPECT_NE(text.find("Hypernet: \"pencil: v2\", Hypernet hash: abcdef0123, Hypernet strength: 0.5"),
            std::string::npos);
}

TEST(Infotext, NamesEverythingThatDrew) {
  GenerateRequest made = request();
  made.prompt = "a zorp";
  made.negative_prompt = "blip";
  made.sampler = "dpmpp_2m_karras";
  InfotextModel drawn = model();
  drawn.hypernetworks = {{"pencil", 0.5, "aaaaaaaaaa"}, {"ink", 1, "bbbbbbbbbb"}};
  drawn.loras = {{"style: v1", 0.8, "cccccccccccc"}, {"face", -1, "dddddddddddd"}};
  drawn.embeddings = {{"zorp", 1, "eeeeeeeeeeee"}, {"blip", 1, "ffffffffffff"}, {"unused", 1, "000000000000"}};
  drawn.zero_terminal_snr = true;
  drawn.clip_skip = 2;
  drawn.prompt_weights = false;
  const std::string text = infotext(made, drawn, 64, 64);
  EXPECT_EQ(
      text.find("a zorp<lora:style v1:0.8><lora:face:-1><hypernet:pencil:0.5><hypernet:ink:1>\nNegative prompt: "), 0u)
      << text;
  EXPECT_NE(text.find("Sampler: DPM++ 2M, Schedule type: Karras, "), std::string::npos);
  EXPECT_NE(
      text.find(
          "Hypernet hashes: \"pencil: aaaaaaaaaa, ink: bbbbbbbbbb\", Noise Schedule: Zero Terminal SNR, Clip skip: 2, "
          "Lora hashes: \"style v1: cccccccccccc, face: dddddddddddd\", "
          "TI hashes: \"zorp: eeeeeeeeeeee, blip: ffffffffffff\", Emphasis: None, Version: ldmtune"),
      std::string::npos)
      << text;
}

}  // namespace
}  // namespace ldmtune::pipeline
