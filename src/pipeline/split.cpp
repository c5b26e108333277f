#include "pipeline/split.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace ldmtune::pipeline {
namespace {

using Hash = std::array<std::uint8_t, 32>;

constexpr std::int64_t kImagesForDefaultSplits = 8;
constexpr std::int64_t kDefaultShare = 20;  // one image in twenty

/// Images that share a split.
struct Unit {
  Hash lowest_hash{};
  std::vector<std::size_t> images;
  std::optional<store::Split> split;
  std::size_t split_from = 0;  ///< the image whose metadata set it
};

store::Split parse_split(const SplitCandidate& image) {
  if (*image.split == "train") return store::Split::train;
  if (*image.split == "validation") return store::Split::validation;
  if (*image.split == "test") return store::Split::test;
  fail_input(image.source, ": split must be train, validation or test, found \"", *image.split, "\" in the metadata");
}

/// Units in order of their lowest hash; files of equal content without a group are one. What metadata says of one image
/// of a group holds for all of it; of one of several equal files, for those that metadata says nothing of.
std::vector<Unit> make_units(const std::vector<SplitCandidate>& images) {
  std::map<std::pair<bool, std::string>, Unit> units;  // key: (has a group, its name or the hash)
  for (std::size_t i = 0; i < images.size(); ++i) {
    const SplitCandidate& image = images[i];
    const std::string key =
        image.group ? *image.group : std::string(image.image_sha256.begin(), image.image_sha256.end());
    Unit& unit = units[{image.group.has_value(), key}];
    if (unit.images.empty() || image.image_sha256 < unit.lowest_hash) unit.lowest_hash = image.image_sha256;
    unit.images.push_back(i);
    if (!image.split) continue;
    const store::Split split = parse_split(image);
    if (image.group && unit.split && *unit.split != split) {
      fail_input(image.source, ": metadata puts group \"", *image.group, "\" into two splits (\"", *image.split,
                 "\" here, another for ", images[unit.split_from].source, "); give the whole group one split");
    }
    if (!unit.split) unit.split = split, unit.split_from = i;
  }
  std::vector<Unit> sorted;
  for (auto& [key, unit] : units) sorted.push_back(std::move(unit));
  std::sort(sorted.begin(), sorted.end(), [](const Unit& a, const Unit& b) {
    return std::tie(a.lowest_hash, a.images.front()) < std::tie(b.lowest_hash, b.images.front());
  });
  return sorted;
}

std::int64_t wanted(std::int64_t size, std::int64_t images) {
  if (size >= 0) return size;
  return images < kImagesForDefaultSplits ? 0 : std::max<std::int64_t>(1, images / kDefaultShare);
}

}  // namespace

std::vector<store::Split> assign_splits(const std::vector<SplitCandidate>& images, const SplitSizes& sizes) {
  const auto count = static_cast<std::int64_t>(images.size());
  const std::array<std::int64_t, 3> target{0, wanted(sizes.validation, count), wanted(sizes.test, count)};
  std::array<std::int64_t, 3> held{};
  std::vector<Unit> units = make_units(images);
  for (const Unit& unit : units) {
    if (unit.split) held[static_cast<std::size_t>(*unit.split)] += static_cast<std::int64_t>(unit.images.size());
  }
  bool any_by_hash = false;
  for (const store::Split split : {store::Split::validation, store::Split::test, store::Split::train}) {
    std::int64_t& number = held[static_cast<std::size_t>(split)];
    for (Unit& unit : units) {
      if (unit.split) continue;
      if (split != store::Split::train && number >= target[static_cast<std::size_t>(split)]) break;
      any_by_hash = any_by_hash || split != store::Split::train;
      unit.split = split;
      number += static_cast<std::int64_t>(unit.images.size());
    }
  }
  if (any_by_hash && held[0] == 0) {
    fail_input("validation_images (", target[1], ") and test_images (", target[2], ") leave none of the ", count,
               " images to train on (a group is held out whole); lower them");
  }
  std::vector<store::Split> splits(images.size());
  for (const Unit& unit : units) {
    for (const std::size_t image : unit.images) {
      splits[image] = images[image].split ? parse_split(images[image]) : *unit.split;
    }
  }
  return splits;
}

}  // namespace ldmtune::pipeline
