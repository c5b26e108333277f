#include "optim/adamw.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"

namespace ldmtune::optim {

AdamW::AdamW(const Arena& arena, AdamWOptions options, std::int64_t begin, std::int64_t end)
    : options_(options), begin_(begin), end_(end), arena_size_(arena.size()) {
  check_slice(arena, begin, end);
  ranges_ = group_ranges(arena, begin, end);
  moment1_ = at::zeros({end - begin}, arena.parameters().options());
  moment2_ = at::zeros_like(moment1_);
}

void AdamW::step(const Arena& arena, const std::map<std::string, double>& learning_rate, std::int64_t step) {
  if (step < 1) fail("AdamW counts steps from 1, found ", step);
  if (arena.size() != arena_size_) fail("AdamW was made for ", arena_size_, " elements, found ", arena.size());
  const at::NoGradGuard no_grad;
  const at::Tensor step_count = at::full({}, static_cast<double>(step), arena.parameters().options());
  for (const GroupRange& range : ranges_) {
    const std::int64_t length = range.end - range.begin;
    at::_fused_adamw_(
        {arena.parameters().narrow(0, range.begin, length)}, {arena.gradients().narrow(0, range.begin, length)},
        {moment1_.narrow(0, range.begin - begin_, length)}, {moment2_.narrow(0, range.begin - begin_, length)},
        /*max_exp_avg_sqs=*/{}, {step_count}, rate_of(learning_rate, range.group), options_.beta1, options_.beta2,
        options_.weight_decay, options_.epsilon,
        /*amsgrad=*/false, /*maximize=*/false);
  }
}

}  // namespace ldmtune::optim
