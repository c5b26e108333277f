#include "optim/ema.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "optim/block_sums.h"
#include "optim/group_ranges.h"

namespace ldmtune::optim {

double ema_decay_at(std::int64_t update, double decay) {
  if (update <= 1) return 0;
  const auto n = static_cast<double>(update);
  return std::min(decay, n / (9 + n));
}

Ema::Ema(const Arena& arena, double decay, std::int64_t begin, std::int64_t end)
    : decay_(decay), begin_(begin), end_(end) {
  check_slice(arena, begin, end);
  average_ = arena.parameters().detach().narrow(0, begin, end - begin).clone();
}

void Ema::update(const Arena& arena, std::int64_t update) {
  const at::NoGradGuard no_grad;
  const double step = 1 - ema_decay_at(update, decay_);
  for_each_piece(end_ - begin_, average_.device(), [&](std::int64_t first, std::int64_t length) {
    at::Tensor average = average_.narrow(0, first, length);
    // Each operation rounds once, so that slices have the same bits.
    average.sub_(average.sub(arena.parameters().narrow(0, begin_ + first, length)).mul_(step));
  });
}

}  // namespace ldmtune::optim
