#pragma once
// Masks of images: which part of a picture the loss looks at.

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "data/captions.h"

namespace ldmtune::pipeline {

/// none; the images' own alpha channel; or image files: NAME.mask.png beside NAME.*, or masks/NAME.png in the same
/// folder.
enum class MaskSource { none, alpha, files };
/// Errors: InputError naming option mask and the names that are known.
MaskSource parse_mask_source(const std::string& text);

/// The entries without those that are masks of others (cat.mask.png where there is a cat.png).
std::vector<data::ImageEntry> without_masks(std::vector<data::ImageEntry> entries);

/// Errors: InputError naming the images whose mask file is missing, if masks are files.
void check_masks(const std::vector<data::ImageEntry>& entries, MaskSource source);

/// The image's mask resized and cropped as load_and_crop does with the image, then averaged over the `factor` x
/// `factor` pixels of each latent element: (resolution / factor, resolution / factor) u8. White (or opaque) counts; an
/// image without alpha channel is opaque. Errors: InputError naming the mask that is not of the image's `size` (width,
/// height).
at::Tensor load_mask(const data::ImageEntry& entry, MaskSource source, const std::array<std::int32_t, 2>& size,
                     std::int64_t resolution, std::int64_t factor);

}  // namespace ldmtune::pipeline
