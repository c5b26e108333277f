#pragma once
// Which samples a micro-batch holds: pure functions of (data seed, trial seed, dataset), endless, nothing dropped.
// See src/README.md, "Sample stream", for what another program needs to recompute it.

#include <cstdint>
#include <limits>
#include <vector>

namespace ldmtune::data {

/// One draw of the stream. `draw` = micro_batch * micro_batch_size + slot is its identity: noise, timestep, posterior
/// sample and caption dropout are keyed by it.
struct Draw {
  std::uint64_t draw = 0;
  std::uint32_t bucket = 0;  ///< index into the stream's buckets
  std::uint32_t row = 0;     ///< index into that bucket's training rows (order of sample_id)
  std::uint64_t epoch = 0;   ///< how many whole passes of this bucket came before
};

/// Not for use by several threads at once (it keeps the last permutations).
class SampleStream {
 public:
  /// bucket_sizes: training rows of each bucket, in order of bucket; empty buckets are allowed, not all of them.
  /// Errors: InputError without any training row; Error for a micro-batch size of 0, 2^24 or more buckets or rows in
  /// all beyond 2^32 - 1.
  SampleStream(std::vector<std::uint32_t> bucket_sizes, std::uint64_t data_seed, std::uint64_t trial_seed,
               std::uint32_t dataset, std::uint32_t micro_batch_size);

  /// The draws of micro-batch m = 0, 1, 2 ... (all of one bucket).
  /// Bucket: round r = m / N, N = all rows; permutation(bucket_order, dataset, draw r) of N places, seeded by
  /// data_seed, of which bucket b's rows stand for b (place p, in order of bucket); m takes place m % N of it. Rows:
  /// this is the bucket's k-th micro-batch; its rows are elements k*size .. of the concatenation over epoch e of
  /// permutation(sample_order, dataset, draw = bucket << 40 | e), seeded by derive_seed(data_seed, "order", 0) ^
  /// trial_seed.
  std::vector<Draw> micro_batch(std::uint64_t m) const;

  /// Training rows in all.
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

  static constexpr std::uint64_t kNothingCached = std::numeric_limits<std::uint64_t>::max();

  std::vector<std::uint32_t> bucket_sizes_;
  std::uint64_t data_seed_, trial_seed_;
  std::uint32_t dataset_, micro_batch_size_;
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
