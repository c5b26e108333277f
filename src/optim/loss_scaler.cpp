#include "optim/loss_scaler.h"

namespace ldmtune::optim {

void LossScaler::book(bool finite) {
  constexpr std::int64_t kGrowthInterval = 2000;
  constexpr double kLargest = 1 << 24;
  if (!finite) {
    scale /= 2;
    good_updates = 0;
    ++skipped;
  } else if (++good_updates == kGrowthInterval) {
    good_updates = 0;
    if (scale < kLargest) scale *= 2;
  }
}

}  // namespace ldmtune::optim
