#include "model/autoencoder_kl.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/vae_blocks.h"

namespace ldmtune::model {

struct AutoencoderKL::Impl {
  Impl(const nlohmann::json& json, Weights& weights);

  VAEConfig config;
  Encoder encoder;
  Decoder decoder;
  std::optional<Conv2d> quant_conv, post_quant_conv;
  store::TensorMap parameters;
};

AutoencoderKL::Impl::Impl(const nlohmann::json& json, Weights& weights)
    : config(read_vae_config(json, "AutoencoderKL of " + weights.source())),
      encoder(weights, config),
      decoder(weights, config) {
  const Conv2d::Geometry pointwise{.kernel = 1, .stride = 1, .padding = 0};
  const std::int64_t moments = 2 * config.latent_channels;
  if (config.use_quant_conv) quant_conv.emplace(weights, "quant_conv", moments, moments, pointwise);
  if (config.use_post_quant_conv) {
    post_quant_conv.emplace(weights, "post_quant_conv", config.latent_channels, config.latent_channels, pointwise);
  }
  parameters = weights.taken();
}

AutoencoderKL::AutoencoderKL(const nlohmann::json& config, Weights& weights)
    : impl_(std::make_unique<Impl>(config, weights)) {}
AutoencoderKL::~AutoencoderKL() = default;
AutoencoderKL::AutoencoderKL(AutoencoderKL&&) noexcept = default;

AutoencoderKL::Posterior AutoencoderKL::encode(const at::Tensor& image) const {
  const std::int64_t factor = downscale_factor();
  if (image.dim() != 4 || image.size(1) != impl_->config.in_channels || image.size(2) % factor != 0 ||
      image.size(3) % factor != 0) {
    fail("VAE: expected an image of shape (B, ", impl_->config.in_channels, ", H, W) with H and W divisible by ",
         factor, ", found ", image.sizes());
  }
  at::Tensor moments = impl_->encoder.forward(image);
  if (impl_->quant_conv) moments = impl_->quant_conv->forward(moments);
  const auto halves = moments.chunk(2, 1);
  return {halves[0].contiguous(), at::exp(0.5 * at::clamp(halves[1], -30.0, 20.0))};
}

at::Tensor AutoencoderKL::decode(const at::Tensor& latent) const {
  if (latent.dim() != 4 || latent.size(1) != latent_channels()) {
    fail("VAE: expected a latent of shape (B, ", latent_channels(), ", h, w), found ", latent.sizes());
  }
  const at::Tensor input = latent.to(impl_->decoder.dtype());
  return impl_->decoder.forward(impl_->post_quant_conv ? impl_->post_quant_conv->forward(input) : input);
}

double AutoencoderKL::scaling_factor() const { return impl_->config.scaling_factor; }
std::int64_t AutoencoderKL::latent_channels() const { return impl_->config.latent_channels; }
std::int64_t AutoencoderKL::downscale_factor() const {
  return std::int64_t{1} << (impl_->config.block_out_channels.size() - 1);
}
const store::TensorMap& AutoencoderKL::parameters() const { return impl_->parameters; }

}  // namespace ldmtune::model
