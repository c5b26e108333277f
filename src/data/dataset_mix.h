#pragma once
// One dataset or several that train together, seen as one.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/path_list.h"
#include "data/latent_dataset.h"
#include "data/sample_stream.h"

namespace ldmtune::data {

/// Samples that train, by bucket of the mix: dataset by dataset, each in order of sample_id, those with repeats as
/// often.
struct TrainingRows {
  std::vector<std::vector<std::size_t>> samples;  ///< by bucket: indices into the mix
  StreamRows stream;                              ///< how many of them are of which dataset, and its weight

  std::uint64_t count() const;
  /// How many one pass over the data takes on average: each as often as its dataset's weight says.
  double per_pass() const;
};

/// Samples 0 .. size()-1 are those of the first dataset in its order, then those of the next. Buckets of one size are
/// one bucket, so that a micro-batch may hold samples of several datasets.
class DatasetMix {
 public:
  /// Opens the folders as LatentDataset does. Errors: InputError also where they do not fit each other: a folder twice,
  /// another VAE, other latents, an image that trains in one and is held out in another.
  explicit DatasetMix(const PathList& folders, std::uint64_t verify_below = std::uint64_t{1} << 30);
  /// Of one dataset that is open already.
  explicit DatasetMix(std::unique_ptr<LatentDataset> only);

  const std::vector<std::unique_ptr<LatentDataset>>& datasets() const { return datasets_; }
  /// The folders, for messages.
  std::string name() const;
  /// Names the content of all: a single dataset's own, else that of their list.
  std::string sha256() const;
  const std::vector<store::BucketSize>& buckets() const { return buckets_; }

  std::size_t size() const { return places_.size(); }
  /// Which of datasets() a sample is of.
  std::uint32_t dataset_of(std::size_t sample) const { return places_.at(sample).dataset; }
  const store::SampleRecord& record(std::size_t sample) const;
  /// A number that names a sample in tables and files: its sample_id, of dataset d plus d x 10^12.
  std::uint64_t sample_key(std::size_t sample) const;
  const store::BucketSize& bucket(std::size_t sample) const;
  const std::string& caption(std::size_t sample) const;
  const std::string& source(std::size_t sample) const;
  SampleLatent latent(std::size_t sample) const;
  double scaling_factor(std::size_t sample) const;
  bool has_masks() const;
  at::Tensor mask(std::size_t sample) const;

  /// Samples of one split by bucket, dataset by dataset.
  std::vector<std::vector<std::size_t>> by_bucket(store::Split split) const;
  /// The first n images (with all their variants) of the training splits in the order of a keyed permutation: nested
  /// for growing n. n = 0 takes all. Images are told apart by image_sha256, in order of their first sample; image
  /// permutation(subset_seed, subset, 0, 0)[i] is the i-th to join. Datasets of weight 0 have no part in it.
  /// `weights`: one for each dataset, or none where all weigh 1. Errors: InputError naming data.subset or data.weights.
  TrainingRows training_rows(std::uint64_t n = 0, std::uint64_t subset_seed = 0,
                             const std::vector<double>& weights = {}) const;

 private:
  struct Place {
    std::uint32_t dataset = 0;
    std::size_t sample = 0;
  };
  const LatentDataset& dataset(const Place& place) const { return *datasets_[place.dataset]; }
  void add(std::unique_ptr<LatentDataset> dataset);
  void check_agreement() const;
  void check_splits() const;
  void check_sample_ids() const;
  std::size_t bucket_place(const store::BucketSize& size) const;

  std::vector<std::unique_ptr<LatentDataset>> datasets_;
  std::vector<store::BucketSize> buckets_;
  std::vector<Place> places_;
};

/// What DatasetMix::sha256 of these folders is, from their index.json alone; empty where one is missing.
std::string datasets_sha256(const PathList& folders);

}  // namespace ldmtune::data
