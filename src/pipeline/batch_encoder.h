#pragma once
// A few images -> latents, with the same bits whoever encodes them.

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/autoencoder_kl.h"
#include "pipeline/masks.h"
#include "pipeline/scan.h"
#include "store/latent_part.h"

namespace ldmtune::pipeline {

/// What encoding gives for n images of `variants` variants each; rows are (image 0, variant 0), (image 0, variant 1),
/// ...
struct EncodedBatch {
  at::Tensor latent_mean;  ///< (n * variants, C, h, w) f16, unscaled
  at::Tensor latent_std;   ///< (n * variants, C, h, w) f16
  at::Tensor mask;         ///< (n * variants, h, w) u8; undefined without masks
  at::Tensor geometry;     ///< (n, 6) i32: original width, height; crop's left, top, width, height

  /// For exchange between ranks.
  std::string to_bytes() const;
};

class BatchEncoder {
 public:
  /// Every forward has `batch_size` rows, the last ones padded: kernels change bits with the number of rows, not with a
  /// row's neighbours. Mirror images are a forward of their own, so that latents are the same with and without them.
  BatchEncoder(const model::AutoencoderKL& vae, std::int64_t resolution, std::int64_t batch_size, bool random_flip,
               MaskSource masks = MaskSource::none);

  /// At most batch_size images. Errors: InputError naming an image that cannot be read or whose latents overflow fp16.
  EncodedBatch encode(std::span<const ScannedImage> images) const;
  EncodedBatch from_bytes(const std::string& bytes, std::int64_t images) const;

  std::int64_t variants() const { return random_flip_ ? 2 : 1; }

 private:
  /// (n * variants, h, w) u8.
  at::Tensor masks_of(std::span<const ScannedImage> images, const at::Tensor& geometry) const;
  at::Tensor posterior_rows(const at::Tensor& pixels) const;

  const model::AutoencoderKL& vae_;
  std::int64_t resolution_, batch_size_;
  bool random_flip_;
  MaskSource masks_;
};

}  // namespace ldmtune::pipeline
