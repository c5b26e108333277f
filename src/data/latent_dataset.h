#pragma once
// A dataset folder: index.json, captions.jsonl and HDF5 parts.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "store/latent_part.h"

namespace ldmtune::data {

struct DatasetIndex {
  struct Part {
    std::string file;
    std::string sha256;
    std::uint64_t samples = 0;
  };
  std::vector<Part> parts;
  std::string base_sha256, vae_sha256;
  double scaling_factor = 0.18215;
  std::int64_t latent_channels = 4;
  std::vector<store::BucketSize> buckets;
  std::string captions_sha256;
};
/// Format "ldmtune-latents", version 1. Keys: format, version, parts [{file, sha256, samples}], base_sha256,
/// vae_sha256, scaling_factor, latent_channels, buckets ["<width>x<height>"], captions_sha256. Errors: InputError
/// naming file and key.
DatasetIndex read_dataset_index(const std::filesystem::path& folder);
void write_dataset_index(const std::filesystem::path& folder, const DatasetIndex& index);

struct Caption {
  std::uint64_t sample_id = 0;
  std::string source;  ///< the image file's path relative to the image folder
  std::string text;
  std::uint64_t repeats = 1;  ///< how often one pass over the data takes it
};
/// Errors: InputError naming file and line (bad JSON, missing keys, a sample_id twice, text that is no valid caption).
std::vector<Caption> read_captions(const std::filesystem::path& folder);
/// Writes captions.jsonl, one {"sample_id", "source", "text"[, "repeats"]} a line. Returns the file's sha256.
std::string write_captions(const std::filesystem::path& folder, const std::vector<Caption>& captions);

struct SampleLatent {
  at::Tensor mean;  ///< (C, h, w) f32, unscaled
  at::Tensor std;   ///< (C, h, w) f32
};

class LatentDataset {
 public:
  /// Opens index, captions and parts and checks that they agree; verifies part checksums too where all parts together
  /// are below `verify_below` bytes (every fletcher32 is checked at read in any case).
  /// Errors: InputError naming the file and what disagrees.
  explicit LatentDataset(const std::filesystem::path& folder, std::uint64_t verify_below = std::uint64_t{1} << 30);
  ~LatentDataset();

  const std::filesystem::path& folder() const;
  const DatasetIndex& index() const;
  /// sha256 of index.json: names the dataset's whole content.
  const std::string& sha256() const;

  /// Sample s = 0 .. size()-1, in order of sample_id.
  std::size_t size() const;
  const store::SampleRecord& record(std::size_t sample) const;
  const store::BucketSize& bucket(std::size_t sample) const;
  const std::string& caption(std::size_t sample) const;
  /// How often one pass over the data takes it.
  std::uint64_t repeats(std::size_t sample) const;
  /// The image file it was made from, relative to the image folder.
  const std::string& source(std::size_t sample) const;
  SampleLatent latent(std::size_t sample) const;
  /// Whether any sample has a mask.
  bool has_masks() const;
  /// What a sample's mask shows, (h, w) u8 from 0 to 255; all 255 where its part holds none.
  at::Tensor mask(std::size_t sample) const;

  /// Samples of one split by bucket (outer: index().buckets in order), each in order of sample_id.
  std::vector<std::vector<std::size_t>> by_bucket(store::Split split) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::data
