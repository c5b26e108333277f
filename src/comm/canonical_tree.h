#pragma once
// The canonical tree over [a, b): splits at a + the largest power of two below b - a. Pure templates without MPI.

#include <bit>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace ldmtune::comm {

/// Where the tree over [begin, end) splits; end - begin is at least 2.
inline std::int64_t canonical_split(std::int64_t begin, std::int64_t end) {
  const auto width = static_cast<std::uint64_t>(end - begin);
  return begin + static_cast<std::int64_t>(std::bit_floor(width - 1));
}

/// Sums values[begin, end) along the canonical tree.
template <class T>
T canonical_sum(const std::vector<T>& values, std::int64_t begin, std::int64_t end) {
  if (end <= begin) return T{};
  if (end - begin == 1) return values[static_cast<std::size_t>(begin)];
  const std::int64_t middle = canonical_split(begin, end);
  return canonical_sum(values, begin, middle) + canonical_sum(values, middle, end);
}

template <class T>
T canonical_sum(const std::vector<T>& values) {
  return canonical_sum(values, 0, static_cast<std::int64_t>(values.size()));
}

/// Adds leaves that arrive in order 0, 1, 2 ... as the canonical tree does while holding at most 1 + log2(leaves)
/// partial sums: the stack of a binary counter. `Combine(a, b)` adds b into a.
template <class T>
class LeafAccumulator {
 public:
  explicit LeafAccumulator(std::function<void(T& a, const T& b)> combine) : combine_(std::move(combine)) {}

  void push(T leaf) {
    stack_.emplace_back(std::move(leaf), 1);
    while (stack_.size() > 1 && stack_[stack_.size() - 2].second == stack_.back().second) merge_top();
  }

  /// The sum of all leaves pushed (at least one); leaves the accumulator empty. Any number of leaves will do, and the
  /// sum is canonical_sum's to the bit.
  T finish() {
    if (stack_.empty()) throw std::logic_error("LeafAccumulator::finish without a leaf");
    while (stack_.size() > 1) merge_top();
    T sum = std::move(stack_.back().first);
    stack_.clear();
    return sum;
  }

  std::size_t depth() const { return stack_.size(); }

 private:
  void merge_top() {
    auto top = std::move(stack_.back());
    stack_.pop_back();
    combine_(stack_.back().first, top.first);
    stack_.back().second += top.second;
  }

  std::function<void(T&, const T&)> combine_;
  std::vector<std::pair<T, std::int64_t>> stack_;
};

}  // namespace ldmtune::comm
