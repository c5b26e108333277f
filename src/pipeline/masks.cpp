#include "pipeline/masks.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "pipeline/encode.h"
#include "store/image.h"

namespace ldmtune::pipeline {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMaskSuffix = ".mask.png";

std::string without_extension(const std::string& source) { return fs::path(source).replace_extension().string(); }

/// NAME.mask.png, or masks/NAME.png, or nothing.
fs::path find_mask_file(const fs::path& image) {
  const fs::path beside = fs::path(image).replace_extension(kMaskSuffix);
  if (fs::exists(beside)) return beside;
  const fs::path in_folder = image.parent_path() / "masks" / fs::path(image.filename()).replace_extension(".png");
  return fs::exists(in_folder) ? in_folder : fs::path();
}

/// (H, W) u8; undefined where an image has no alpha channel.
at::Tensor read_mask(const data::ImageEntry& entry, MaskSource source) {
  if (source == MaskSource::alpha) return store::read_alpha(entry.file);
  return store::read_image(find_mask_file(entry.file)).to(at::kFloat).mean(2).round().to(at::kByte);
}

}  // namespace

MaskSource parse_mask_source(const std::string& text) {
  if (text == "none") return MaskSource::none;
  if (text == "alpha") return MaskSource::alpha;
  if (text == "files") return MaskSource::files;
  fail_input("option mask: expected none, alpha or files, found '", text, "'");
}

std::vector<data::ImageEntry> without_masks(std::vector<data::ImageEntry> entries) {
  std::set<std::string> names;
  for (const data::ImageEntry& entry : entries) names.insert(without_extension(entry.source));
  std::erase_if(entries, [&](const data::ImageEntry& entry) {
    if (!entry.source.ends_with(kMaskSuffix)) return false;
    return names.count(entry.source.substr(0, entry.source.size() - std::string(kMaskSuffix).size())) > 0;
  });
  return entries;
}

void check_masks(const std::vector<data::ImageEntry>& entries, MaskSource source) {
  if (source != MaskSource::files) return;
  std::string missing;
  std::size_t count = 0;
  constexpr std::size_t kMostLines = 10;
  for (const data::ImageEntry& entry : entries) {
    if (!find_mask_file(entry.file).empty()) continue;
    if (++count <= kMostLines) missing += "\n  " + entry.file.string();
  }
  if (count == 0) return;
  fail_input("option mask: expected NAME.mask.png beside each image or masks/NAME.png, found none for ", count, " of ",
             entries.size(), " images (a white one lets all of a picture count):", missing,
             count > kMostLines ? "\n  ..." : "");
}

at::Tensor load_mask(const data::ImageEntry& entry, MaskSource source, const std::array<std::int32_t, 2>& size,
                     std::int64_t resolution, std::int64_t factor) {
  const at::Tensor mask = read_mask(entry, source);
  const std::int64_t side = resolution / factor;
  if (!mask.defined()) return at::full({side, side}, 255, at::kByte);
  if (mask.size(0) != size[1] || mask.size(1) != size[0]) {
    fail_input(find_mask_file(entry.file).string(), ": expected a mask of its image's ", size[0], "x", size[1],
               " pixels, found ", mask.size(1), "x", mask.size(0));
  }
  const at::Tensor cropped =
      resize_and_crop(mask.to(at::kFloat).view({1, 1, mask.size(0), mask.size(1)}), resolution, entry.file.string())
          .pixels.clamp(0, 255);
  return cropped.view({side, factor, side, factor}).mean({1, 3}).round().to(at::kByte);
}

}  // namespace ldmtune::pipeline
