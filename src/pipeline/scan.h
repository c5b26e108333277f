#pragma once
// The first pass over a folder of images: what can be read, and the hashes that decide splits.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/captions.h"

namespace ldmtune::pipeline {

/// A readable image.
struct ScannedImage {
  std::uint64_t index = 0;  ///< place in the folder's listing: sample ids are made of it
  data::ImageEntry entry;
  std::array<std::uint8_t, 32> sha256{};  ///< of the file
};

struct ScanResult {
  std::vector<ScannedImage> images;  ///< in order of index
  std::vector<std::string> bad;      ///< file and reason of each that cannot be read, in order
};

/// Decodes and hashes every image, the ranks sharing them; all ranks get the whole result. The index of an image is its
/// place in `entries`; those for which `taken` is false are left out.
ScanResult scan_images(const std::vector<data::ImageEntry>& entries, const std::vector<bool>& taken,
                       comm::Communicator& comm);

/// The names of files whose content is equal, one line for each such set; empty if there are none.
std::vector<std::string> equal_files(const std::vector<ScannedImage>& images);

}  // namespace ldmtune::pipeline
