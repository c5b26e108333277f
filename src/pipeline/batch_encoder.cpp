#include "pipeline/batch_encoder.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "pipeline/bytes.h"
#include "pipeline/encode.h"

namespace ldmtune::pipeline {
namespace {

void expect_finite(const at::Tensor& latents, std::span<const ScannedImage> images, std::int64_t variants) {
  // (2, n * variants, C, h, w) f16
  if (at::isfinite(latents).all().item<bool>()) return;
  const at::Tensor finite = at::isfinite(latents).flatten(2).all(2).all(0);  // (n * variants)
  for (std::size_t i = 0; i < images.size(); ++i) {
    const at::Tensor rows = finite.narrow(0, static_cast<std::int64_t>(i) * variants, variants);
    if (!rows.all().item<bool>()) {
      fail_input(images[i].entry.file.string(),
                 ": its latents are not finite in fp16 (at most 65504); is this the right VAE?");
    }
  }
}

}  // namespace

std::string EncodedBatch::to_bytes() const {
  std::string bytes;
  for (const at::Tensor& tensor : {geometry, latent_mean, latent_std}) append_bytes(bytes, tensor);
  if (mask.defined()) append_bytes(bytes, mask);
  return bytes;
}

BatchEncoder::BatchEncoder(const model::AutoencoderKL& vae, std::int64_t resolution, std::int64_t batch_size,
                           bool random_flip, MaskSource masks)
    : vae_(vae), resolution_(resolution), batch_size_(batch_size), random_flip_(random_flip), masks_(masks) {}

/// pixels (batch_size, 3, H, W) -> (2, batch_size, C, h, w) f16 on the CPU: mean and std.
at::Tensor BatchEncoder::posterior_rows(const at::Tensor& pixels) const {
  const at::Tensor& weight = vae_.parameters().begin()->second;
  const auto posterior = vae_.encode(pixels.to(weight.options()));
  return at::stack({posterior.mean, posterior.stddev}).to(at::kHalf).cpu();
}

at::Tensor BatchEncoder::masks_of(std::span<const ScannedImage> images, const at::Tensor& geometry) const {
  if (masks_ == MaskSource::none) return {};
  std::vector<at::Tensor> rows;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const at::Tensor size = geometry[static_cast<std::int64_t>(i)];
    const at::Tensor mask =
        load_mask(images[i].entry, masks_, {size[0].item<std::int32_t>(), size[1].item<std::int32_t>()}, resolution_,
                  vae_.downscale_factor());
    rows.push_back(mask);
    if (random_flip_) rows.push_back(mask.flip(1));
  }
  return at::stack(rows);
}

EncodedBatch BatchEncoder::encode(std::span<const ScannedImage> images) const {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(images.size());
  at::Tensor pixels = at::zeros({batch_size_, 3, resolution_, resolution_}, at::kFloat);
  EncodedBatch batch;
  batch.geometry = at::empty({count, 6}, at::kInt);
  auto geometry = batch.geometry.accessor<std::int32_t, 2>();
  for (std::int64_t i = 0; i < count; ++i) {
    const PreparedImage image = load_and_crop(images[static_cast<std::size_t>(i)].entry.file, resolution_);
    pixels[i].copy_(image.pixels);
    for (std::int64_t k = 0; k < 2; ++k) geometry[i][k] = image.original_size[static_cast<std::size_t>(k)];
    for (std::int64_t k = 0; k < 4; ++k) geometry[i][2 + k] = image.crop[static_cast<std::size_t>(k)];
  }
  std::vector<at::Tensor> by_variant{posterior_rows(pixels)};
  if (random_flip_) by_variant.push_back(posterior_rows(pixels.flip(3)));
  // (2, batch_size, variants, C, h, w) -> (2, n * variants, C, h, w)
  const at::Tensor latents = at::stack(by_variant, 2).narrow(1, 0, count).flatten(1, 2).contiguous();
  expect_finite(latents, images, variants());
  batch.latent_mean = latents[0];
  batch.latent_std = latents[1];
  batch.mask = masks_of(images, batch.geometry);
  return batch;
}

EncodedBatch BatchEncoder::from_bytes(const std::string& bytes, std::int64_t images) const {
  const std::int64_t side = resolution_ / vae_.downscale_factor();
  const std::vector<std::int64_t> shape{images * variants(), vae_.latent_channels(), side, side};
  ByteReader reader(bytes);
  EncodedBatch batch;
  batch.geometry = reader.take({images, 6}, at::kInt);
  batch.latent_mean = reader.take(shape, at::kHalf);
  batch.latent_std = reader.take(shape, at::kHalf);
  if (masks_ != MaskSource::none) batch.mask = reader.take({shape[0], side, side}, at::kByte);
  return batch;
}

}  // namespace ldmtune::pipeline
