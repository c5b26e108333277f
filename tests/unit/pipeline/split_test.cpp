#include "pipeline/split.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"

namespace ldmtune::pipeline {
namespace {

using store::Split;

/// An image whose hash begins with `hash`.
SplitCandidate image(std::uint8_t hash, std::optional<std::string> split = {}, std::optional<std::string> group = {}) {
  SplitCandidate candidate;
  candidate.source = "image-" + std::to_string(hash);
  candidate.image_sha256[0] = hash;
  candidate.split = std::move(split);
  candidate.group = std::move(group);
  return candidate;
}

std::vector<SplitCandidate> images(int count) {
  std::vector<SplitCandidate> all;
  for (int i = 0; i < count; ++i) all.push_back(image(static_cast<std::uint8_t>((i * 37 + 11) % 251)));
  return all;
}

std::int64_t count(const std::vector<Split>& splits, Split split) {
  return std::count(splits.begin(), splits.end(), split);
}

TEST(AssignSplits, TakesValidationThenTestByLowestHash) {
  const auto splits = assign_splits({image(9), image(3), image(7), image(1), image(5)}, {1, 2});
  EXPECT_EQ(splits, (std::vector{Split::train, Split::test, Split::train, Split::validation, Split::test}));
}

TEST(AssignSplits, DefaultsAreAShareAndNoneOfAFew) {
  EXPECT_EQ(count(assign_splits(images(7), {}), Split::train), 7);
  const auto eight = assign_splits(images(8), {});
  EXPECT_EQ(count(eight, Split::validation), 1);
  EXPECT_EQ(count(eight, Split::test), 1);
  const auto hundred = assign_splits(images(100), {});
  EXPECT_EQ(count(hundred, Split::validation), 5);
  EXPECT_EQ(count(hundred, Split::test), 5);
}

TEST(AssignSplits, DoesNotDependOnTheOrderOfFiles) {
  std::vector<SplitCandidate> all = images(40);
  const auto splits = assign_splits(all, {});
  std::vector<SplitCandidate> reversed(all.rbegin(), all.rend());
  auto back = assign_splits(reversed, {});
  std::reverse(back.begin(), back.end());
  EXPECT_EQ(splits, back);
}

TEST(AssignSplits, MetadataStandsAndCountsTowardsTheSizes) {
  std::vector<SplitCandidate> all = images(20);
  all[4].split = "validation";
  all[5].split = "validation";
  all[6].split = "train";
  const auto splits = assign_splits(all, {3, 0});
  EXPECT_EQ(splits[4], Split::validation);
  EXPECT_EQ(splits[5], Split::validation);
  EXPECT_EQ(splits[6], Split::train);
  EXPECT_EQ(count(splits, Split::validation), 3);
  EXPECT_EQ(count(splits, Split::test), 0);
}

TEST(AssignSplits, AGroupNeverStraddles) {
  // The group's lowest hash is 1, so all of it is held out although one image was asked for.
  const auto splits = assign_splits({image(200, {}, "cat"), image(1, {}, "cat"), image(2), image(3)}, {1, 1});
  EXPECT_EQ(splits, (std::vector{Split::validation, Split::validation, Split::test, Split::train}));
}

TEST(AssignSplits, MetadataOfOneImageHoldsForItsGroup) {
  const auto splits = assign_splits({image(1, {}, "cat"), image(2, "test", "cat"), image(3)}, {0, 0});
  EXPECT_EQ(splits, (std::vector{Split::test, Split::test, Split::train}));
}

TEST(AssignSplits, EqualFilesStayTogether) {
  const auto splits = assign_splits({image(1), image(1), image(2), image(3)}, {1, 0});
  EXPECT_EQ(splits, (std::vector{Split::validation, Split::validation, Split::train, Split::train}));
}

TEST(AssignSplits, RefusesAGroupInTwoSplits) {
  try {
    assign_splits({image(1, "train", "cat"), image(2, "test", "cat")}, {});
    FAIL() << "expected an InputError";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("image-2: metadata puts group \"cat\" into two splits"),
              std::string::npos);
  }
}

TEST(AssignSplits, RefusesUnknownNamesAndSizesThatLeaveNothing) {
  EXPECT_THROW(assign_splits({image(1, "valid")}, {}), InputError);
  EXPECT_THROW(assign_splits(images(4), {3, 1}), InputError);
  EXPECT_EQ(count(assign_splits(images(4), {2, 1}), Split::train), 1);
}

TEST(AssignSplits, AFolderMayBeHeldOutWholeByMetadata) {
  EXPECT_EQ(assign_splits({image(1, "validation")}, {}), std::vector{Split::validation});
}

}  // namespace
}  // namespace ldmtune::pipeline
