#pragma once
// Which images train, which choose, which are read by the analysis alone: a pure function of captions' metadata and
// image hashes, so that it is the same on every machine and however the files are named.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/latent_part.h"

namespace ldmtune::pipeline {

/// What decides an image's split.
struct SplitCandidate {
  std::string source;                           ///< for errors
  std::array<std::uint8_t, 32> image_sha256{};  ///< of the file
  std::optional<std::string> split;             ///< from metadata
  std::optional<std::string> group;             ///< images of one group never straddle splits
};

/// How many images the validation and test splits should hold; -1: 5%, at least one from eight images on.
struct SplitSizes {
  std::int64_t validation = -1;
  std::int64_t test = -1;
};

/// One split an image. Metadata's split stands, for the image's whole group. The others are taken in order of their
/// group's lowest hash (files of equal content count as one group) into validation until it holds its number, images
/// that metadata put there included, then into test, then into train.
/// Errors: InputError for a group that metadata puts into two splits, an unknown split, or sizes that leave nothing to
/// train on.
std::vector<store::Split> assign_splits(const std::vector<SplitCandidate>& images, const SplitSizes& sizes);

}  // namespace ldmtune::pipeline
