#include "data/sample_stream.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::data {

namespace {

StreamRows one_dataset(const std::vector<std::uint32_t>& bucket_sizes) {
  StreamRows rows{{}, {Weight{}}};
  for (const std::uint32_t size : bucket_sizes) rows.rows.push_back({size});
  return rows;
}

/// The pass that element `element` falls into: the last one before which at most `element` were taken.
template <class Before>
std::uint64_t pass_of(std::uint64_t element, const Before& before) {
  std::uint64_t low = 0, high = 1;  // before(low) <= element < before(high)
  while (before(high) <= element) low = high, high *= 2;
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    (before(middle) <= element ? low : high) = middle;
  }
  return low;
}

}  // namespace

SampleStream::SampleStream(const std::vector<std::uint32_t>& bucket_sizes, std::uint64_t data_seed,
                           std::uint64_t trial_seed, std::uint32_t key, std::uint32_t micro_batch_size)
    : SampleStream(one_dataset(bucket_sizes), data_seed, trial_seed, key, micro_batch_size) {}

SampleStream::SampleStream(const StreamRows& rows, std::uint64_t data_seed, std::uint64_t trial_seed, std::uint32_t key,
                           std::uint32_t micro_batch_size)
    : data_seed_(data_seed), trial_seed_(trial_seed), key_(key), micro_batch_size_(micro_batch_size) {
  double longest_pass = 0;
  for (std::uint64_t bucket = 0; bucket < rows.rows.size(); ++bucket) {
    std::vector<WeightedRows>& shares = shares_.emplace_back();
    for (std::uint64_t dataset = 0; dataset < rows.weights.size(); ++dataset) {
      const std::uint32_t count = rows.rows[bucket][dataset];
      const RandomStream stream{data_seed_, Purpose::dataset_weight, key_, bucket << 40 | dataset};
      shares.emplace_back(count, rows.weights[dataset], stream);
      total_ += count;
      longest_pass += std::ceil(count * rows.weights[dataset].value());
    }
  }
  if (longest_pass == 0) {
    fail_input("data: expected at least one training sample, found none; add images to the train split");
  }
  if (micro_batch_size_ == 0) fail("a sample stream needs a micro-batch size of 1 or more");
  constexpr std::uint32_t kMostRows = std::numeric_limits<std::uint32_t>::max(), kMostBuckets = 1U << 24;
  if (total_ > kMostRows || longest_pass > kMostRows || shares_.size() >= kMostBuckets ||
      rows.weights.size() >= kMostBuckets) {
    fail("a sample stream holds at most 2^32 - 1 rows, weighted too, in 2^24 - 1 buckets, found ", total_, ", ",
         longest_pass, " weighted, in ", shares_.size());
  }
  epoch_cache_.resize(shares_.size());
  epoch_cached_.assign(shares_.size(), kNothingCached);
}

std::uint64_t SampleStream::before(std::uint32_t bucket, std::uint64_t pass) const {
  std::uint64_t rows = 0;
  for (const WeightedRows& share : shares_[bucket]) rows += share.before(pass);
  return rows;
}

std::uint64_t SampleStream::all_before(std::uint64_t pass) const {
  std::uint64_t rows = 0;
  for (std::uint32_t bucket = 0; bucket < shares_.size(); ++bucket) rows += before(bucket, pass);
  return rows;
}

std::vector<Draw> SampleStream::micro_batch(std::uint64_t m) const {
  const Turn now = turn(m);
  const auto before_pass = [&](std::uint64_t pass) { return before(now.bucket, pass); };
  std::vector<Draw> draws(micro_batch_size_);
  for (std::uint64_t slot = 0; slot < micro_batch_size_; ++slot) {
    const std::uint64_t element = now.index * micro_batch_size_ + slot;
    const std::uint64_t epoch = pass_of(element, before_pass);
    const std::uint32_t row = epoch_order(now.bucket, epoch)[element - before_pass(epoch)];
    draws[slot] = {m * micro_batch_size_ + slot, now.bucket, row, epoch};
  }
  return draws;
}

SampleStream::Turn SampleStream::turn(std::uint64_t m) const {
  const std::uint64_t round = pass_of(m, [&](std::uint64_t pass) { return all_before(pass); });
  if (round_cached_ != round) fill_round(round);
  const Turn& within = round_cache_[m - all_before(round)];
  return {within.bucket, before(within.bucket, round) + within.index};
}

void SampleStream::fill_round(std::uint64_t round) const {
  std::vector<std::uint64_t> ends(shares_.size());  // places below ends[b] that no earlier bucket has stand for b
  std::uint64_t end = 0;
  for (std::uint32_t bucket = 0; bucket < ends.size(); ++bucket) {
    ends[bucket] = end += before(bucket, round + 1) - before(bucket, round);
  }
  const auto places = permutation({data_seed_, Purpose::bucket_order, key_, round}, static_cast<std::uint32_t>(end));
  std::vector<std::uint64_t> turns(shares_.size(), 0);
  round_cache_.clear();
  round_cache_.reserve(places.size());
  for (const std::uint32_t place : places) {
    const auto bucket = static_cast<std::uint32_t>(std::upper_bound(ends.begin(), ends.end(), place) - ends.begin());
    round_cache_.push_back({bucket, turns[bucket]++});
  }
  round_cached_ = round;
}

const std::vector<std::uint32_t>& SampleStream::epoch_order(std::uint32_t bucket, std::uint64_t epoch) const {
  if (epoch_cached_[bucket] == epoch) return epoch_cache_[bucket];
  std::vector<std::uint32_t> rows;
  std::uint32_t first = 0;  // of the dataset's share
  for (const WeightedRows& share : shares_[bucket]) {
    for (const std::uint32_t row : share.taken(epoch)) rows.push_back(first + row);
    first += share.rows();
  }
  const std::uint64_t seed = derive_seed(data_seed_, "order", 0) ^ trial_seed_;
  const std::uint64_t draw = std::uint64_t{bucket} << 40 | epoch;
  std::vector<std::uint32_t> order =
      permutation({seed, Purpose::sample_order, key_, draw}, static_cast<std::uint32_t>(rows.size()));
  for (std::uint32_t& row : order) row = rows[row];
  epoch_cache_[bucket] = std::move(order);
  epoch_cached_[bucket] = epoch;
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
