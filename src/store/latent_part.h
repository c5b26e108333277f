#pragma once
// One HDF5 part of a latent dataset: bytes <-> tensors and the schema of shared contract "ldmtune-latents" version 1.
// Written with libver latest and fletcher32, the one layout in which every truncation and bit flip is reported.

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ldmtune::store {

enum class Split : std::uint8_t { train = 0, validation = 1, test = 2 };

/// Everything about a sample but its latents.
struct SampleRecord {
  std::uint64_t sample_id = 0;
  std::array<std::uint8_t, 32> image_sha256{};
  std::uint8_t variant = 0;                     ///< 0 as is, 1 flipped
  std::array<std::int32_t, 2> original_size{};  ///< width, height
  std::array<std::int32_t, 4> crop{};           ///< left, top, width, height in the resized image
  Split split = Split::train;
};

/// Samples of one bucket in one part, in order of sample_id.
struct BucketRows {
  std::vector<SampleRecord> records;
  at::Tensor latent_mean;  ///< (N, C, h, w) f16, unscaled
  at::Tensor latent_std;   ///< (N, C, h, w) f16
  at::Tensor mask;         ///< (N, h, w) u8, or undefined
};

/// Pixel size of a bucket; the group's name is "<width>x<height>".
struct BucketSize {
  std::int32_t width = 0, height = 0;
  std::string name() const;
  static BucketSize parse(const std::string& name);
  friend auto operator<=>(const BucketSize&, const BucketSize&) = default;
};

/// Writes atomically; the same rows give the same bytes. Every bucket has a row at least.
void write_latent_part(const std::filesystem::path& file, const std::map<BucketSize, BucketRows>& buckets);

/// An open part. Records are read at open; latents when asked for. Errors: InputError naming file, object and what was
/// expected for anything damaged or foreign (compression, links out of the file, other types or shapes ...).
class LatentPart {
 public:
  explicit LatentPart(const std::filesystem::path& file);
  ~LatentPart();
  LatentPart(LatentPart&&) noexcept;
  LatentPart& operator=(LatentPart&&) noexcept;

  std::vector<BucketSize> buckets() const;
  const std::vector<SampleRecord>& records(const BucketSize& bucket) const;
  /// (2, C, h, w) f16: mean and std of one row. Errors: InputError naming file and row (a checksum mismatch too).
  at::Tensor read_latent(const BucketSize& bucket, std::int64_t row) const;
  /// (C, h, w) of the bucket's latents.
  std::vector<std::int64_t> latent_shape(const BucketSize& bucket) const;
  bool has_mask(const BucketSize& bucket) const;
  /// (h, w) u8, or an undefined tensor where the bucket has no masks.
  at::Tensor read_mask(const BucketSize& bucket, std::int64_t row) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::store
