#include <webp/decode.h>

#include "store/image_codecs.h"

namespace ldmtune::store {
namespace {

/// The EXIF chunk of the RIFF container, empty if there is none.
std::span<const unsigned char> exif_chunk(std::span<const unsigned char> file) {
  std::size_t at = 12;  // after "RIFF", its size and "WEBP"
  while (at + 8 <= file.size()) {
    const std::size_t size = file[at + 4] | std::size_t{file[at + 5]} << 8 | std::size_t{file[at + 6]} << 16 |
                             std::size_t{file[at + 7]} << 24;
    if (size > file.size() - at - 8) return {};
    if (std::string(file.begin() + static_cast<std::ptrdiff_t>(at),
                    file.begin() + static_cast<std::ptrdiff_t>(at) + 4) == "EXIF") {
      return file.subspan(at + 8, size);
    }
    at += 8 + size + size % 2;
  }
  return {};
}

}  // namespace

DecodedImage decode_webp(const std::filesystem::path& file, const std::string& bytes) {
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, bytes.size(), &features) != VP8_STATUS_OK) fail_image(file, "WebP", "a damaged header");
  if (features.has_animation) fail_image(file, "WebP", "an animation");
  const bool alpha = features.has_alpha != 0;
  at::Tensor pixels = allocate_pixels(file, static_cast<std::uint64_t>(features.width),
                                      static_cast<std::uint64_t>(features.height), alpha ? 4 : 3);
  auto* out = pixels.mutable_data_ptr<std::uint8_t>();
  const auto stride = static_cast<int>(pixels.stride(0));
  const auto decode = alpha ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  if (!decode(data, bytes.size(), out, pixels.nbytes(), stride)) fail_image(file, "WebP", "damaged or missing pixels");
  const int orientation = exif_orientation(exif_chunk({data, bytes.size()}));
  if (!alpha) return {pixels, orientation};
  return {over_white(pixels), orientation, pixels.select(2, 3)};
}

}  // namespace ldmtune::store
