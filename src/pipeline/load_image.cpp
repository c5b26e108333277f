#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "pipeline/encode.h"
#include "store/image.h"

namespace ldmtune::pipeline {

PreparedImage load_and_crop(const std::filesystem::path& file, std::int64_t resolution) {
  const at::Tensor pixels = store::read_image(file);  // (H, W, 3) u8
  const std::int64_t height = pixels.size(0), width = pixels.size(1);
  at::Tensor image = pixels.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div_(127.5).sub_(1.0);  // (1, 3, H, W)

  // The longer side is rounded down, as torchvision's Resize does.
  const std::int64_t shorter = std::min(height, width);
  const std::int64_t resized_height = std::max(resolution, resolution * height / shorter);
  const std::int64_t resized_width = std::max(resolution, resolution * width / shorter);
  constexpr std::int64_t kLongestSide = 1 << 16;
  if (std::max(resized_height, resized_width) > kLongestSide) {
    fail_input(file.string(), ": an image of ", width, "x", height,
               " pixels is too narrow to be cropped to a square of ", resolution);
  }
  if (resized_height != height || resized_width != width) {
    image = at::_upsample_bilinear2d_aa(image.contiguous(), {resized_height, resized_width}, /*align_corners=*/false)
                .clamp_(-1.0, 1.0);
  }
  const auto top = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(resized_height - resolution) / 2));
  const auto left = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(resized_width - resolution) / 2));

  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  PreparedImage prepared;
  prepared.pixels = image.squeeze(0).narrow(1, top, resolution).narrow(2, left, resolution).contiguous();
  prepared.original_size = {narrow(width), narrow(height)};
  prepared.crop = {narrow(left), narrow(top), narrow(resolution), narrow(resolution)};
  return prepared;
}

}  // namespace ldmtune::pipeline
