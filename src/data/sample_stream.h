#pragma once
// Which samples a micro-batch holds: pure functions of (data seed, trial seed, datasets), endless, nothing dropped.
// See src/README.md, "Sample stream", for what another program needs to recompute it.

#include <cstdint>
#include <limits>
#include <vector>

#include "data/weighted_rows.h"

namespace ldmtune::data {

/// One draw of the stream. `draw` = micro_batch * micro_batch_size + slot is its identity: noise, timestep, posterior
/// sample and caption dropout are keyed by it.
struct Draw {
  std::uint64_t draw = 0;
  std::uint32_t bucket = 0;  ///< index into the stream's buckets
  std::uint32_t row = 0;     ///< index into that bucket's training rows (by dataset, then sample_id)
  std::uint64_t epoch = 0;   ///< how many whole passes of this bucket came before
};

/// What a stream is made of: training rows of each bucket, and how many of them are of which dataset.
struct StreamRows {
  std::vector<std::vector<std::uint32_t>> rows;  ///< by bucket, then dataset; buckets and shares may be empty
  std::vector<Weight> weights;                   ///< of each dataset
};

/// Not for use by several threads at once (it keeps the last permutations).
class SampleStream {
 public:
  /// `key` is the "dataset" of this stream's random numbers: the concept's is 0, the class images' 1.
  /// Errors: InputError without any training row (of a weight above 0); Error for a micro-batch size of 0, 2^24 or more
  /// buckets or datasets, or 2^32 or more rows in all or in a pass.
  SampleStream(const StreamRows& rows, std::uint64_t data_seed, std::uint64_t trial_seed, std::uint32_t key,
               std::uint32_t micro_batch_size);
  /// Of one dataset with weight 1.
  SampleStream(const std::vector<std::uint32_t>& bucket_sizes, std::uint64_t data_seed, std::uint64_t trial_seed,
               std::uint32_t key, std::uint32_t micro_batch_size);

  /// The draws of micro-batch m = 0, 1, 2 ... (all of one bucket).
  /// Pass e holds S(e) rows, S(b, e) of them of bucket b: what WeightedRows takes of each dataset's share, with the
  /// stream {data_seed, dataset_weight, key, b << 40 | place of the dataset}; with weights of 1 that is every row once.
  /// Bucket: micro-batches count through passes ("rounds") too; in round r, permutation(bucket_order, key, draw r) of
  /// S(r) places, seeded by data_seed, of which S(b, r) stand for bucket b (place p, in order of bucket). Rows: this is
  /// the bucket's k-th micro-batch; its rows are elements k*size .. of the concatenation over passes e of
  /// permutation(sample_order, key, draw = bucket << 40 | e) of the rows that pass e takes of the bucket, in order of
  /// dataset and row, seeded by derive_seed(data_seed, "order", 0) ^ trial_seed.
  std::vector<Draw> micro_batch(std::uint64_t m) const;

  /// Training rows in all, before weights.
  std::uint64_t samples() const { return total_; }

 private:
  /// A bucket, and how many of its micro-batches came before.
  struct Turn {
    std::uint32_t bucket = 0;
    std::uint64_t index = 0;
  };
  Turn turn(std::uint64_t m) const;
  void fill_round(std::uint64_t round) const;
  const std::vector<std::uint32_t>& epoch_order(std::uint32_t bucket, std::uint64_t epoch) const;
  /// Rows that passes before this one took: of a bucket, of all.
  std::uint64_t before(std::uint32_t bucket, std::uint64_t pass) const;
  std::uint64_t all_before(std::uint64_t pass) const;

  static constexpr std::uint64_t kNothingCached = std::numeric_limits<std::uint64_t>::max();

  std::vector<std::vector<WeightedRows>> shares_;  ///< by bucket, then dataset
  std::uint64_t data_seed_, trial_seed_;
  std::uint32_t key_, micro_batch_size_;
  std::uint64_t total_ = 0;
  // Caches of the last permutations used; they change speed only.
  mutable std::vector<std::vector<std::uint32_t>> epoch_cache_;
  mutable std::vector<std::uint64_t> epoch_cached_;
  mutable std::vector<Turn> round_cache_;  ///< index counts within the round
  mutable std::uint64_t round_cached_ = kNothingCached;
};

/// Leaves (micro-batches of one global batch) of `rank`: [rank * leaves / ranks, (rank + 1) * leaves / ranks).
struct LeafRange {
  std::int64_t begin = 0, end = 0;
};
LeafRange leaves_of_rank(std::int64_t leaves, int rank, int ranks);

/// Errors: InputError if global_batch_size is no multiple of micro_batch_size, leaves or ranks are no powers of two, or
/// ranks > leaves; it lists the valid numbers of ranks.
std::int64_t checked_leaves(std::int64_t global_batch_size, std::int64_t micro_batch_size, int ranks);

}  // namespace ldmtune::data
