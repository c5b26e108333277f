#pragma once
// Prompt -> image: what `sample`, previews and class images share.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/base_model.h"
#include "model/hooks.h"
#include "pipeline/text.h"

namespace ldmtune::pipeline {

struct GenerateRequest {
  std::string prompt;
  std::string negative_prompt;
  std::uint64_t seed = 0;  ///< initial noise: RandomStream{seed, initial_latent, 0, index}
  std::uint64_t index = 0;
  std::int64_t width = 0, height = 0;  ///< pixels; 0: the base's sample size
  std::int64_t num_inference_steps = 30;
  double guidance_scale = 7.5;  ///< 1: without guidance
  std::string sampler = "ddim";  ///< diffusion/sampler.h; ancestral noise: {seed, sampler_noise, 0, index << 16 | step}
  bool hooks_in_text_encoder = false;  ///< the hooks change embeddings or the text encoder too
};

struct GenerateResult {
  at::Tensor initial_noise;  ///< f32 (C, h, w), unit variance
  at::Tensor final_latent;   ///< f32 (C, h, w), scaled as the UNet sees it
  at::Tensor image;          ///< uint8 (H, W, 3)
  at::Tensor context;        ///< f32 (2, T, D): negative, positive
};

/// Makes hooks for a forward of `rows` rows (null: the untouched base).
using HooksFactory = std::function<std::unique_ptr<model::ModelHooks>(std::int64_t rows)>;

/// One image; the same request gives the same bits whatever was generated before.
GenerateResult generate(const model::BaseModel& base, PromptEncoder& prompts, const GenerateRequest& request,
                        const HooksFactory& hooks = nullptr);

}  // namespace ldmtune::pipeline
