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

/// The UNet's answer at one step: guidance leads from what the negative prompt gives to what the prompt gives.
class Denoiser {
 public:
  /// context (2, T, D): negative, positive. Without guidance the positive row alone is run.
  Denoiser(const model::BaseModel& base, const at::Tensor& context, double guidance_scale, const HooksFactory& hooks)
      : unet_(*base.unet),
        guided_(guidance_scale > 1),
        guidance_scale_(guidance_scale),
        weight_(unet_.parameters().begin()->second) {
    context_ = (guided_ ? context : context.narrow(0, 1, 1)).to(weight_.options());
    if (hooks) hooks_ = hooks(context_.size(0));
  }

  at::Device device() const { return weight_.device(); }

  /// sample (1, C, h, w), as Sampler::scale_model_input gives it. Returns f32 of the same shape.
  at::Tensor operator()(const at::Tensor& sample, double timestep) const {
    const std::int64_t rows = context_.size(0);
    const at::Tensor input = sample.expand({rows, -1, -1, -1}).to(weight_.scalar_type()).contiguous();
    const at::Tensor when = at::full({rows}, timestep, input.options().dtype(at::kFloat));
    const at::Tensor prediction = unet_.forward(input, when, context_, hooks_.get()).to(at::kFloat);
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

/// (2, T, D): negative, positive.
at::Tensor encode_prompts(PromptEncoder& prompts, const GenerateRequest& request, const HooksFactory& hooks) {
  const std::vector<std::string> texts{request.negative_prompt, request.prompt};
  if (!hooks || !request.hooks_in_text_encoder) return prompts.encode(texts);
  return prompts.encode_ids(prompts.input_ids(texts), hooks(2).get());
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
  const at::Tensor context = encode_prompts(prompts, request, hooks);
  const Denoiser denoise(base, context, request.guidance_scale, hooks);

  at::Tensor sample = result.initial_noise.unsqueeze(0).to(denoise.device()) * sampler->init_noise_sigma();
  for (std::size_t step = 0; step < sampler->timesteps().size(); ++step) {
    const at::Tensor prediction = denoise(sampler->scale_model_input(sample, step), sampler->timesteps()[step]);
    sample = sampler->step(prediction, sample, step);
  }
  result.final_latent = sample.squeeze(0).to(at::kFloat).cpu();
  result.context = context.to(at::kFloat).cpu();
  result.image = decode(*base.vae, sample);
  return result;
}

}  // namespace ldmtune::pipeline
