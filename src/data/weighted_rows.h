#pragma once
// Which rows of a dataset each pass over the data takes, where datasets train together with weights.

#include <cstdint>
#include <vector>

#include "core/random.h"

namespace ldmtune::data {

/// How often one pass takes each sample of a dataset, as a fraction in lowest terms.
struct Weight {
  std::uint64_t numerator = 1, denominator = 1;

  /// Rounded to millionths. Errors: InputError naming data.weights for anything but 0 and 0.000001 to 1000.
  static Weight of(double value);
  double value() const { return static_cast<double>(numerator) / static_cast<double>(denominator); }
};

/// n rows of one dataset in one bucket, with a weight p/q. Pass e takes elements [c(e), c(e + 1)) of an endless
/// sequence, c(e) = floor((e n p + phase) / q): the sequence repeats permutation(stream) of the n rows, and phase is
/// stream.integer(n, q). So every pass takes each row floor(p/q) or ceil(p/q) times, over any passes no row is taken
/// more than once more than another, and a whole weight takes each row as often in every pass.
class WeightedRows {
 public:
  WeightedRows(std::uint32_t rows, Weight weight, const RandomStream& stream);

  std::uint32_t rows() const { return rows_; }
  /// c(pass): how many rows the passes before it took.
  std::uint64_t before(std::uint64_t pass) const {
    return pass * whole_ + (pass * part_ + phase_) / weight_.denominator;
  }
  /// The rows that a pass takes, each as often as it does, in ascending order.
  std::vector<std::uint32_t> taken(std::uint64_t pass) const;

 private:
  std::uint32_t rows_;
  Weight weight_;
  std::uint64_t whole_, part_;  ///< n p = whole q + part
  std::uint64_t phase_ = 0;
  std::vector<std::uint32_t> order_;  ///< empty for whole weights, which need none
};

}  // namespace ldmtune::data
