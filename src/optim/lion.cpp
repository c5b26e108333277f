#include "optim/lion.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "optim/block_sums.h"

namespace ldmtune::optim {

Lion::Lion(const Arena& arena, LionOptions options, std::int64_t begin, std::int64_t end)
    : options_(options), begin_(begin), end_(end), arena_size_(arena.size()) {
  check_slice(arena, begin, end);
  ranges_ = group_ranges(arena, begin, end);
  moment1_ = at::zeros({end - begin}, arena.parameters().options());
}

void Lion::step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t /*step*/) {
  if (arena.size() != arena_size_) fail("Lion was made for ", arena_size_, " elements, found ", arena.size());
  const at::NoGradGuard no_grad;
  for (const GroupRange& range : ranges_) {
    const double rate = rate_of(learning_rate, range.group);
    for_each_piece(range.end - range.begin, arena.parameters().device(), [&](std::int64_t first, std::int64_t length) {
      const std::int64_t at = range.begin + first;
      at::Tensor p = arena.parameters().narrow(0, at, length);
      const at::Tensor g = arena.gradients().narrow(0, at, length);
      at::Tensor m = moment1_.narrow(0, at - begin_, length);
      // Each operation rounds once: kernels that fuse two round otherwise in their vectors than in their tails.
      const at::Tensor direction = m.mul(options_.beta1).add_(g.mul(1 - options_.beta1)).sgn_();
      if (options_.weight_decay != 0) p.mul_(1 - rate * options_.weight_decay);
      p.sub_(direction.mul_(rate));
      m.mul_(options_.beta2).add_(g.mul(1 - options_.beta2));
    });
  }
}

}  // namespace ldmtune::optim
