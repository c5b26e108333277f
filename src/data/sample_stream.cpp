#include "data/sample_stream.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::data {

SampleStream::SampleStream(std::vector<std::uint32_t> bucket_sizes, std::uint64_t data_seed, std::uint64_t trial_seed,
                           std::uint32_t dataset, std::uint32_t micro_batch_size)
    : bucket_sizes_(std::move(bucket_sizes)),
      data_seed_(data_seed),
      trial_seed_(trial_seed),
      dataset_(dataset),
      micro_batch_size_(micro_batch_size) {
  for (const std::uint32_t size : bucket_sizes_) total_ += size;
  if (total_ == 0) fail_input("data: expected at least one training sample, found none; add images to the train split");
  if (micro_batch_size_ == 0) fail("a sample stream needs a micro-batch size of 1 or more");
  if (total_ > std::numeric_limits<std::uint32_t>::max() || bucket_sizes_.size() >= (1u << 24)) {
    fail("a sample stream holds at most 2^32 - 1 rows in 2^24 - 1 buckets, found ", total_, " in ",
         bucket_sizes_.size());
  }
  epoch_cache_.resize(bucket_sizes_.size());
  epoch_cached_.assign(bucket_sizes_.size(), kNothingCached);
}

std::vector<Draw> SampleStream::micro_batch(std::uint64_t m) const {
  const Turn now = turn(m);
  const std::uint64_t size = bucket_sizes_[now.bucket];
  std::vector<Draw> draws(micro_batch_size_);
  for (std::uint64_t slot = 0; slot < micro_batch_size_; ++slot) {
    const std::uint64_t element = now.index * micro_batch_size_ + slot;
    const std::uint64_t epoch = element / size;
    const std::uint32_t row = epoch_order(now.bucket, epoch)[element % size];
    draws[slot] = {m * micro_batch_size_ + slot, now.bucket, row, epoch};
  }
  return draws;
}

SampleStream::Turn SampleStream::turn(std::uint64_t m) const {
  const std::uint64_t round = m / total_;
  if (round_cached_ != round) fill_round(round);
  const Turn& within = round_cache_[m % total_];
  return {within.bucket, round * bucket_sizes_[within.bucket] + within.index};
}

void SampleStream::fill_round(std::uint64_t round) const {
  const auto places =
      permutation({data_seed_, Purpose::bucket_order, dataset_, round}, static_cast<std::uint32_t>(total_));
  std::vector<std::uint64_t> ends(bucket_sizes_.size());  // places below ends[b] that no earlier bucket has stand for b
  std::uint64_t end = 0;
  for (std::size_t bucket = 0; bucket < ends.size(); ++bucket) ends[bucket] = end += bucket_sizes_[bucket];
  std::vector<std::uint64_t> turns(bucket_sizes_.size(), 0);
  round_cache_.clear();
  round_cache_.reserve(places.size());
  for (const std::uint32_t place : places) {
    const auto bucket = static_cast<std::uint32_t>(std::upper_bound(ends.begin(), ends.end(), place) - ends.begin());
    round_cache_.push_back({bucket, turns[bucket]++});
  }
  round_cached_ = round;
}

const std::vector<std::uint32_t>& SampleStream::epoch_order(std::uint32_t bucket, std::uint64_t epoch) const {
  if (epoch_cached_[bucket] != epoch) {
    const std::uint64_t seed = derive_seed(data_seed_, "order", 0) ^ trial_seed_;
    const std::uint64_t draw = std::uint64_t{bucket} << 40 | epoch;
    epoch_cache_[bucket] = permutation({seed, Purpose::sample_order, dataset_, draw}, bucket_sizes_[bucket]);
    epoch_cached_[bucket] = epoch;
  }
  return epoch_cache_[bucket];
}

LeafRange leaves_of_rank(std::int64_t leaves, int rank, int ranks) {
  return {rank * leaves / ranks, (rank + 1) * leaves / ranks};
}

namespace {

bool is_power_of_two(std::int64_t value) { return value > 0 && std::has_single_bit(static_cast<std::uint64_t>(value)); }

}  // namespace

std::int64_t checked_leaves(std::int64_t global_batch_size, std::int64_t micro_batch_size, int ranks) {
  if (micro_batch_size < 1) fail_input("train.micro_batch_size: expected 1 or more samples, found ", micro_batch_size);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (global_batch_size > kMost) {
    fail_input("train.global_batch_size: expected at most ", kMost, " samples, found ", global_batch_size);
  }
  if (global_batch_size < 1 || global_batch_size % micro_batch_size != 0) {
    fail_input("train.global_batch_size: expected a multiple of train.micro_batch_size = ", micro_batch_size,
               ", found ", global_batch_size);
  }
  const std::int64_t leaves = global_batch_size / micro_batch_size;
  if (!is_power_of_two(leaves)) {
    const auto below = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(leaves)));
    fail_input("train.global_batch_size / train.micro_batch_size: expected a power of two, found ", global_batch_size,
               " / ", micro_batch_size, " = ", leaves, "; the nearest global_batch_size are ", below * micro_batch_size,
               " and ", 2 * below * micro_batch_size);
  }
  if (!is_power_of_two(ranks) || ranks > leaves) {
    std::string valid = "1";
    for (std::int64_t count = 2; count <= leaves; count *= 2) valid += cat(", ", count);
    fail_input("number of MPI ranks: expected one of ", valid, " (global_batch_size / micro_batch_size = ", leaves,
               " leaves), found ", ranks, "; start with mpirun -n N, or change global_batch_size");
  }
  return leaves;
}

}  // namespace ldmtune::data
