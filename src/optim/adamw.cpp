#include "optim/adamw.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"

namespace ldmtune::optim {

std::vector<GroupRange> group_ranges(const Arena& arena, std::int64_t begin, std::int64_t end) {
  std::vector<GroupRange> ranges;
  const std::vector<ArenaEntry>& entries = arena.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::int64_t next = i + 1 < entries.size() ? entries[i + 1].offset : arena.size();
    if (!ranges.empty() && ranges.back().group == entries[i].spec.group) {
      ranges.back().end = next;
    } else {
      ranges.push_back({entries[i].spec.group, entries[i].offset, next});
    }
  }
  for (GroupRange& range : ranges) {
    range.begin = std::max(range.begin, begin);
    range.end = std::min(range.end, end);
  }
  std::erase_if(ranges, [](const GroupRange& range) { return range.begin >= range.end; });
  return ranges;
}

AdamW::AdamW(const Arena& arena, AdamWOptions options, std::int64_t begin, std::int64_t end)
    : options_(options), begin_(begin), end_(end), arena_size_(arena.size()) {
  if (begin < 0 || begin > end || end > arena.size()) {
    fail("optimizer slice [", begin, ", ", end, ") does not lie within the arena's ", arena.size(), " elements");
  }
  if (begin % kArenaAlignment != 0 || end % kArenaAlignment != 0) {
    fail("optimizer slice [", begin, ", ", end, ") does not begin and end at multiples of ", kArenaAlignment);
  }
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
    const auto rate = learning_rate.find(range.group);
    if (rate == learning_rate.end()) fail("parameter group '", range.group, "' has no learning rate");
    const std::int64_t length = range.end - range.begin;
    at::_fused_adamw_({arena.parameters().narrow(0, range.begin, length)},
                      {arena.gradients().narrow(0, range.begin, length)},
                      {moment1_.narrow(0, range.begin - begin_, length)},
                      {moment2_.narrow(0, range.begin - begin_, length)}, /*max_exp_avg_sqs=*/{}, {step_count},
                      rate->second, options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

}  // namespace ldmtune::optim
