#pragma once
// Images <-> tensors: PNG, JPEG, WebP in; PNG out; labelled grids. Image libraries are included in store/*.cpp only.

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace ldmtune::store {

/// uint8 (H, W, 3), sRGB, upright (EXIF orientation applied); transparency over white; grey, palette, CMYK and 16-bit
/// images are converted. Errors: InputError naming the file for anything unreadable, or above 100 million pixels.
at::Tensor read_image(const std::filesystem::path& file);

/// uint8 (H, W), upright: the image's alpha channel, 255 where it is opaque; undefined where it has none. Errors: as
/// read_image's.
at::Tensor read_alpha(const std::filesystem::path& file);

/// Writes uint8 (H, W, 3) as PNG, atomically; `text` becomes tEXt/iTXt entries (A1111's infotext goes under
/// "parameters").
void write_png(const std::filesystem::path& file, const at::Tensor& image_HWC,
               const std::map<std::string, std::string>& text = {});

/// float (3, H, W) or (N, 3, H, W) in [-1, 1] to uint8 (..., H, W, 3), rounded half to even after clamping.
at::Tensor to_uint8_image(const at::Tensor& image_CHW);

struct ImageGrid {
  std::vector<std::string> column_labels;
  std::vector<std::string> row_labels;
  std::vector<std::vector<at::Tensor>> rows;  ///< uint8 (H, W, 3) each; an undefined tensor leaves its cell empty
  std::string title;
};
/// Draws the grid with its labels (cairo) as uint8 (H, W, 3); every cell is enlarged by the whole number `scale`
/// without smoothing.
at::Tensor draw_grid(const ImageGrid& grid, int scale = 1);

}  // namespace ldmtune::store
