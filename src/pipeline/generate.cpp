#include "pipeline/generate.h"

#include <ATen/core/grad_mode.h>

#include <span>

#include "core/error.h"
#include "core/random.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"
#include "store/image.h"

namespace ldmtune::pipeline {
namespace {

struct LatentShape {
  std::int64_t channels, height, width;
};

LatentShape latent_shape(const model::BaseModel& base, const GenerateRequest& request) {
  const std::int64_t factor = base.vae->downscale_factor();
  const auto side = [&](const char* name, std::int64_t pixels) {
    constexpr std::int64_t kLargest = 16384;
    if (pixels == 0) return base.unet->sample_size();
    if (pixels < 0 || pixels > kLargest || pixels % factor != 0) {
      fail_input(name, ": expected a multiple of ", factor, " pixels up to ", kLargest, " (0: the base's own ",
                 base.unet->sample_size() * factor, "), found ", pixels);
    }
    return pixels / factor;
  };
  return {base.vae->latent_channels(), side("height", request.height), side("width", request.width)};
}

at::Tensor initial_noise(const LatentShape& shape, const GenerateRequest& request) {
  at::Tensor noise = at::empty({shape.channels, shape.height, shape.width}, at::kFloat);
  const RandomStream stream{request.seed, Purpose::initial_latent, 0, request.index};
  stream.fill_normal(std::span<float>(noise.data_ptr<float>(), static_cast<std::size_t>(noise.numel())));
  return noise;
}

/// What an ancestral sampler adds after a step: on the CPU first, so that a GPU meets the same noise.
at::Tensor step_noise(const at::Tensor& sample, const GenerateRequest& request, std::size_t step) {
  at::Tensor noise = at::empty(sample.sizes(), at::kFloat);
  const RandomStream stream{request.seed, Purpose::sampler_noise, 0, request.index << 16 | step};
  stream.fill_normal(std::span<float>(noise.data_ptr<float>(), static_cast<std::size_t>(noise.numel())));
  return noise.to(sample.device());
}

/// The UNet's answer at one step: guidance leads from what the negative prompt gives to what the prompt gives.
class Denoiser {
 public:
  /// Rows of text: negative, positive. Without guidance the positive one alone is run. latent: (C, h, w).
  Denoiser(const model::BaseModel& base, const model::TextConditioning& text, at::IntArrayRef latent,
           double guidance_scale, const HooksFactory& hooks)
      : unet_(*base.unet),
        guided_(guidance_scale > 1),
        guidance_scale_(guidance_scale),
        weight_(unet_.parameters().begin()->second) {
    const auto rows = [&](const at::Tensor& both) {
      return (guided_ ? both : both.narrow(0, 1, 1)).to(weight_.options());
    };
    context_ = rows(text.context);
    if (unet_.takes_added_conditioning()) {
      const std::int64_t factor = base.vae->downscale_factor();
      const model::ImageSizes sizes{.original = {latent[1] * factor, latent[2] * factor},
                                    .crop = {0, 0},
                                    .target = {latent[1] * factor, latent[2] * factor}};
      added_.pooled = rows(text.pooled);
      added_.time_ids = model::time_ids({sizes}).expand({context_.size(0), -1}).to(weight_.device());
    }
    if (hooks) hooks_ = hooks(context_.size(0));
  }

  at::Device device() const { return weight_.device(); }

  /// sample (1, C, h, w), as Sampler::scale_model_input gives it. Returns f32 of the same shape.
  at::Tensor operator()(const at::Tensor& sample, double timestep) const {
    const std::int64_t rows = context_.size(0);
    const at::Tensor input = sample.expand({rows, -1, -1, -1}).to(weight_.scalar_type()).contiguous();
    const at::Tensor when = at::full({rows}, timestep, input.options().dtype(at::kFloat));
    const at::Tensor prediction = unet_.forward(input, when, context_, hooks_.get(), added_).to(at::kFloat);
    if (!guided_) return prediction;
    const at::Tensor negative = prediction.narrow(0, 0, 1), positive = prediction.narrow(0, 1, 1);
    return negative + guidance_scale_ * (positive - negative);
  }

 private:
  const model::UNet2DConditionModel& unet_;
  bool guided_;
  double guidance_scale_;
  at::Tensor weight_;  ///< any of the UNet's: its dtype and device
  at::Tensor context_;
  model::AddedConditioning added_;
  std::unique_ptr<model::ModelHooks> hooks_;
};

at::Tensor decode(const model::AutoencoderKL& vae, const at::Tensor& latent) {
  const at::Tensor& weight = vae.parameters().begin()->second;
  const at::Tensor pixels = vae.decode((latent / vae.scaling_factor()).to(weight.options()));
  return store::to_uint8_image(pixels.squeeze(0).to(at::kFloat).cpu());
}

void check(const model::BaseModel& base, const GenerateRequest& request) {
  if (!base.unet || !base.vae) {
    fail_input(base.folder.string(), ": pictures need the base's UNet and VAE, which were not loaded");
  }
  if (base.unet->in_channels() != base.vae->latent_channels()) {
    fail_input(base.folder.string(), ": its UNet reads ", base.unet->in_channels(), " channels, its VAE gives ",
               base.vae->latent_channels(), "; inpainting and depth models cannot draw from a prompt alone");
  }
  const std::int64_t most = base.scheduler_config.value("num_train_timesteps", std::int64_t{1000});
  if (request.num_inference_steps < 1 || request.num_inference_steps > most) {
    fail_input("num_inference_steps: expected 1 to ", most, ", found ", request.num_inference_steps);
  }
}

/// Rows: negative, positive.
model::TextConditioning encode_prompts(const model::BaseModel& base, PromptEncoder& prompts,
                                       const GenerateRequest& request, const HooksFactory& hooks) {
  const std::vector<std::string> texts{request.negative_prompt, request.prompt};
  const bool is_plain = !hooks || !request.hooks_in_text_encoder;
  model::TextConditioning text =
      is_plain ? prompts.condition(texts)
               : prompts.condition_ids(prompts.input_ids(texts), hooks(2).get(), prompts.token_weights(texts));
  if (base.force_zeros_for_empty_prompt && request.negative_prompt.empty()) {
    for (at::Tensor* tensor : {&text.context, &text.pooled}) {
      *tensor = at::cat({at::zeros_like(tensor->narrow(0, 0, 1)), tensor->narrow(0, 1, 1)});
    }
  }
  return text;
}

}  // namespace

GenerateResult generate(const model::BaseModel& base, PromptEncoder& prompts, const GenerateRequest& request,
                        const HooksFactory& hooks) {
  const at::NoGradGuard no_grad;
  check(base, request);
  const diffusion::NoiseSchedule schedule(base.scheduler_config);
  const auto sampler = diffusion::make_sampler(request.sampler, schedule, request.num_inference_steps);

  GenerateResult result;
  result.initial_noise = initial_noise(latent_shape(base, request), request);
  const model::TextConditioning text = encode_prompts(base, prompts, request, hooks);
  const Denoiser denoise(base, text, result.initial_noise.sizes(), request.guidance_scale, hooks);

  at::Tensor sample = result.initial_noise.unsqueeze(0).to(denoise.device()) * sampler->init_noise_sigma();
  for (std::size_t step = 0; step < sampler->timesteps().size(); ++step) {
    const at::Tensor prediction = denoise(sampler->scale_model_input(sample, step), sampler->timesteps()[step]);
    sample = sampler->step(prediction, sample, step);
    if (const double scale = sampler->noise_scale(step); scale > 0) {
      sample = sample + scale * step_noise(sample, request, step);
    }
  }
  result.final_latent = sample.squeeze(0).to(at::kFloat).cpu();
  result.context = text.context.to(at::kFloat).cpu();
  result.image = decode(*base.vae, sample);
  return result;
}

}  // namespace ldmtune::pipeline
