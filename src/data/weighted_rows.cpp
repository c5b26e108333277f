#include "data/weighted_rows.h"

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::data {

Weight Weight::of(double value) {
  constexpr double kMost = 1000;
  constexpr std::uint64_t kDenominator = 1'000'000;
  if (value == 0) return {0, 1};
  if (!(value >= 1.0 / kDenominator && value <= kMost)) {
    fail_input("option data.weights: expected 0 (leave a dataset out) or 0.000001 to ", kMost, ", found ",
               format_number(value));
  }
  const auto millionths = static_cast<std::uint64_t>(std::llround(value * kDenominator));
  const std::uint64_t common = std::gcd(millionths, kDenominator);
  return {millionths / common, kDenominator / common};
}

WeightedRows::WeightedRows(std::uint32_t rows, Weight weight, const RandomStream& stream)
    : rows_(rows),
      weight_(weight),
      whole_(rows * weight.numerator / weight.denominator),
      part_(rows * weight.numerator % weight.denominator) {
  if (weight.denominator == 1 || rows == 0) return;
  phase_ = stream.integer(rows, weight.denominator);
  order_ = permutation(stream, rows);
}

std::vector<std::uint32_t> WeightedRows::taken(std::uint64_t pass) const {
  if (rows_ == 0) return {};
  const std::uint64_t begin = before(pass), count = before(pass + 1) - begin;
  std::vector<std::uint64_t> times(rows_, count / rows_);
  for (std::uint64_t i = 0; i < count % rows_; ++i) ++times[order_[(begin + i) % rows_]];
  std::vector<std::uint32_t> taken;
  taken.reserve(count);
  for (std::uint32_t row = 0; row < rows_; ++row) taken.insert(taken.end(), times[row], row);
  return taken;
}

}  // namespace ldmtune::data
