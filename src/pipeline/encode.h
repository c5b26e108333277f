#pragma once
// Images -> dataset folder: what `prepare` does.

#include <cstdint>
#include <filesystem>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/captions.h"
#include "model/base_model.h"
#include "store/latent_part.h"

namespace ldmtune::pipeline {

struct PreparedImage {
  at::Tensor pixels;  ///< f32 (3, H, W) in [-1, 1], resized with antialiasing and centre cropped
  std::array<std::int32_t, 2> original_size{};
  std::array<std::int32_t, 4> crop{};
};
struct CroppedImage {
  at::Tensor pixels;  ///< f32 (C, resolution, resolution)
  std::array<std::int32_t, 4> crop{};
};
/// Shorter side to `resolution` (bilinear, antialiased), then the centre resolution x resolution; image f32
/// (1, C, H, W). Errors: InputError that begins with `name` for an image too narrow.
CroppedImage resize_and_crop(const at::Tensor& image, std::int64_t resolution, const std::string& name);
/// That of an image file.
PreparedImage load_and_crop(const std::filesystem::path& file, std::int64_t resolution);

struct PrepareResult {
  std::uint64_t images = 0, samples = 0, skipped = 0;
  double seconds = 0;
};
/// Encodes config.images with the base's VAE into config.output, ranks sharing the images; byte-equal for any number of
/// ranks. Written as OUTPUT.partial and renamed at the end; on error nothing is left behind.
PrepareResult prepare_dataset(const PrepareConfig& config, comm::Communicator& comm);

/// `prepare --captions_only`: rereads captions for the same images and rewrites captions.jsonl and index.json.
void update_captions(const PrepareConfig& config);

}  // namespace ldmtune::pipeline
