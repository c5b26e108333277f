#include "store/image.h"

#include "core/error.h"
#include "store/file_io.h"
#include "store/files.h"
#include "store/image_codecs.h"

namespace ldmtune::store {
namespace {

constexpr std::uint64_t kMostPixels = 100'000'000;
constexpr std::uintmax_t kLargestFile = std::uintmax_t{512} << 20;

at::Tensor upright(const at::Tensor& image, int orientation) {
  switch (orientation) {
    case 2:
      return image.flip(1);
    case 3:
      return image.flip({0, 1});
    case 4:
      return image.flip(0);
    case 5:
      return image.transpose(0, 1);
    case 6:
      return image.transpose(0, 1).flip(1);
    case 7:
      return image.transpose(0, 1).flip({0, 1});
    case 8:
      return image.transpose(0, 1).flip(0);
    default:
      return image;
  }
}

DecodedImage decode(const std::filesystem::path& file) {
  const std::string bytes = read_text(file, kLargestFile);
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file, bytes);
  if (bytes.starts_with("\xFF\xD8\xFF")) return decode_jpeg(file, bytes);
  if (bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") return decode_webp(file, bytes);
  fail_input(file, ": expected a PNG, JPEG or WebP image, found '", printable(bytes.substr(0, 8)),
             "' at its start. Convert it to one of these.");
}

}  // namespace

void check_pixels(const std::filesystem::path& file, std::uint64_t width, std::uint64_t height) {
  if (width == 0 || height == 0 || width > kMostPixels / height) {
    fail_input(file, ": expected an image of 1 to ", kMostPixels, " pixels, found ", width, "x", height,
               ". Scale it down or leave it out.");
  }
}

at::Tensor allocate_pixels(const std::filesystem::path& file, std::uint64_t width, std::uint64_t height, int channels) {
  check_pixels(file, width, height);
  return at::empty({static_cast<std::int64_t>(height), static_cast<std::int64_t>(width), channels}, at::kByte);
}

at::Tensor over_white(const at::Tensor& rgba) {
  const std::int64_t count = rgba.size(0) * rgba.size(1);
  at::Tensor rgb = at::empty({rgba.size(0), rgba.size(1), 3}, at::kByte);
  const auto* in = rgba.const_data_ptr<std::uint8_t>();
  auto* out = rgb.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < count; ++i, in += 4, out += 3) {
    const unsigned alpha = in[3];
    for (int c = 0; c < 3; ++c) out[c] = static_cast<std::uint8_t>((in[c] * alpha + 255 * (255 - alpha) + 127) / 255);
  }
  return rgb;
}

int exif_orientation(std::span<const unsigned char> exif) {
  if (exif.size() >= 6 && std::string(exif.begin(), exif.begin() + 4) == "Exif") exif = exif.subspan(6);
  if (exif.size() < 8) return 1;
  const bool little = exif[0] == 'I';
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | exif[at + (little ? bytes - 1 - i : i)];
    return value;
  };
  const std::size_t directory = number(4, 4);
  if (directory + 2 > exif.size()) return 1;
  const std::size_t entries = number(directory, 2);
  constexpr std::uint32_t kOrientationTag = 0x112;
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > exif.size()) return 1;
    if (number(entry, 2) != kOrientationTag) continue;
    const auto value = static_cast<int>(number(entry + 8, 2));
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

void fail_image(const std::filesystem::path& file, const char* format, const std::string& reason) {
  fail_input(file, ": expected a whole ", format, " image, found: ", printable(reason, 200),
             ". Save it again from an image program, or leave it out.");
}

at::Tensor read_image(const std::filesystem::path& file) {
  const DecodedImage image = decode(file);
  return upright(image.pixels, image.orientation).contiguous();
}

at::Tensor read_alpha(const std::filesystem::path& file) {
  const DecodedImage image = decode(file);
  return image.alpha.defined() ? upright(image.alpha, image.orientation).contiguous() : at::Tensor();
}

at::Tensor to_uint8_image(const at::Tensor& image_CHW) {
  TORCH_CHECK(image_CHW.dim() == 3 || image_CHW.dim() == 4, "to_uint8_image: (3, H, W) or (N, 3, H, W)");
  const at::Tensor scaled = (image_CHW.detach().to(at::kFloat).nan_to_num(0.0).clamp(-1, 1) + 1) * 127.5;
  return scaled.round().to(at::kByte).movedim(-3, -1).contiguous().cpu();
}

}  // namespace ldmtune::store
