#pragma once
// Scale of the loss in fp16 training, so that small gradients do not vanish. Gradients are unscaled before clipping.

#include <cstdint>

namespace ldmtune::optim {

/// A pure function of which updates overflowed: halves after each, doubles after 2000 in a row that did not. Powers of
/// two, so that scaling and unscaling round nothing.
struct LossScaler {
  double scale = 65536;
  std::int64_t good_updates = 0;  ///< since the scale last changed
  std::int64_t skipped = 0;       ///< updates that overflowed and were left out

  /// Books an update whose gradients were finite, or not.
  void book(bool finite);
  /// No scale helps: what overflows is not the scaled loss.
  bool is_exhausted() const { return scale < 1; }
};

}  // namespace ldmtune::optim
