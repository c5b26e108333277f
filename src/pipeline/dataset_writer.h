#pragma once
// A dataset folder while it is being written: OUTPUT.partial, renamed at the end, removed if anything fails.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/latent_dataset.h"
#include "store/latent_part.h"

namespace ldmtune::pipeline {

/// A folder that appears under its name only when whole.
class PartialFolder {
 public:
  /// Creates `output`.partial, and the folders above it that are missing.
  explicit PartialFolder(const std::filesystem::path& output);
  /// Removes whatever was created, unless commit() was called.
  ~PartialFolder();
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  /// Errors: InputError if `output` or its .partial is there already, or lies below a file.
  static void expect_free(const std::filesystem::path& output);

  const std::filesystem::path& path() const { return partial_; }
  /// fsync, then rename.
  void commit();

 private:
  std::filesystem::path output_, partial_;
  std::filesystem::path first_created_;  ///< topmost folder above that was missing; empty if none was
  bool committed_ = false;
};

/// Collects samples of one bucket in order of sample_id and writes a part whenever one is full. It holds one part in
/// memory.
class PartWriter {
 public:
  PartWriter(std::filesystem::path folder, store::BucketSize bucket, std::uint64_t samples_per_part);

  /// latent_mean, latent_std (N, C, h, w) f16 and, in all calls or in none, mask (N, h, w) u8: one row a record.
  void append(const std::vector<store::SampleRecord>& records, const at::Tensor& latent_mean,
              const at::Tensor& latent_std, const at::Tensor& mask = {});
  /// Writes the part if it is full, or, with `last`, if it holds anything. Append never overfills: it must be called in
  /// between.
  void flush(bool last = false);
  const std::vector<data::DatasetIndex::Part>& parts() const { return parts_; }

 private:
  std::filesystem::path folder_;
  store::BucketSize bucket_;
  std::uint64_t samples_per_part_;
  std::vector<store::SampleRecord> records_;
  std::vector<at::Tensor> means_, stds_, masks_;
  std::vector<data::DatasetIndex::Part> parts_;
};

/// write_dataset_index, plus what the dataset was made of ("images", "resolution", "random_flip"): kept for people and
/// for --captions_only.
void write_index_with_origin(const std::filesystem::path& folder, const data::DatasetIndex& index,
                             const nlohmann::json& origin);
/// Those entries of an index.json; empty where there are none.
nlohmann::json read_origin(const std::filesystem::path& folder);

}  // namespace ldmtune::pipeline
