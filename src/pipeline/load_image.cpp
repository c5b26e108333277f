#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "pipeline/encode.h"
#include "store/image.h"

namespace ldmtune::pipeline {

CroppedImage resize_and_crop(const at::Tensor& image, std::int64_t resolution, const std::string& name) {
  const std::int64_t height = image.size(2), width = image.size(3);
  // The longer side is rounded down, as torchvision's Resize does.
  const std::int64_t shorter = std::min(height, width);
  const std::int64_t resized_height = std::max(resolution, resolution * height / shorter);
  const std::int64_t resized_width = std::max(resolution, resolution * width / shorter);
  constexpr std::int64_t kLongestSide = 1 << 16;
  if (std::max(resized_height, resized_width) > kLongestSide) {
    fail_input(name, ": an image of ", width, "x", height, " pixels is too narrow to be cropped to a square of ",
               resolution);
  }
  at::Tensor resized = image;
  if (resized_height != height || resized_width != width) {
    resized = at::_upsample_bilinear2d_aa(image.contiguous(), {resized_height, resized_width}, /*align_corners=*/false);
  }
  const auto top = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(resized_height - resolution) / 2));
  const auto left = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(resized_width - resolution) / 2));
  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  return {resized.squeeze(0).narrow(1, top, resolution).narrow(2, left, resolution).contiguous(),
          {narrow(left), narrow(top), narrow(resolution), narrow(resolution)}};
}

PreparedImage load_and_crop(const std::filesystem::path& file, std::int64_t resolution) {
  const at::Tensor pixels = store::read_image(file);                                                     // (H, W, 3) u8
  const at::Tensor image = pixels.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div_(127.5).sub_(1.0);  // (1, 3, H, W)
  CroppedImage cropped = resize_and_crop(image, resolution, file.string());
  return {cropped.pixels.clamp_(-1.0, 1.0),
          {static_cast<std::int32_t>(pixels.size(1)), static_cast<std::int32_t>(pixels.size(0))},
          cropped.crop};
}

}  // namespace ldmtune::pipeline
