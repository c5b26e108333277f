#pragma once
// One decoder per image format: bytes of a file in, pixels as stored out. Internal to store.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace ldmtune::store {

struct DecodedImage {
  at::Tensor pixels;    ///< uint8 (H, W, 3), transparency over white
  int orientation = 1;  ///< EXIF's 1 to 8
  at::Tensor alpha{};   ///< uint8 (H, W), or undefined where the image has no transparency
};

/// Errors: InputError naming the file and the library's reason.
DecodedImage decode_png(const std::filesystem::path& file, const std::string& bytes);
DecodedImage decode_jpeg(const std::filesystem::path& file, const std::string& bytes);
DecodedImage decode_webp(const std::filesystem::path& file, const std::string& bytes);

/// InputError above 100 million pixels or for an empty image.
void check_pixels(const std::filesystem::path& file, std::uint64_t width, std::uint64_t height);

/// uint8 (height, width, channels) memory for a decoder, the size checked first.
at::Tensor allocate_pixels(const std::filesystem::path& file, std::uint64_t width, std::uint64_t height, int channels);

/// uint8 (H, W, 4) straight alpha to (H, W, 3) over white, rounded to nearest.
at::Tensor over_white(const at::Tensor& rgba);

/// Orientation in an EXIF block (the TIFF header first); 1 if there is none or it is malformed.
int exif_orientation(std::span<const unsigned char> exif);

[[noreturn]] void fail_image(const std::filesystem::path& file, const char* format, const std::string& reason);

}  // namespace ldmtune::store
