#include "optim/group_ranges.h"

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

void check_slice(const Arena& arena, std::int64_t begin, std::int64_t end) {
  if (begin < 0 || begin > end || end > arena.size()) {
    fail("optimizer slice [", begin, ", ", end, ") does not lie within the arena's ", arena.size(), " elements");
  }
  if (begin % kArenaAlignment != 0 || end % kArenaAlignment != 0) {
    fail("optimizer slice [", begin, ", ", end, ") does not begin and end at multiples of ", kArenaAlignment);
  }
}

double rate_of(const std::map<std::string, double>& learning_rate, const std::string& group) {
  const auto rate = learning_rate.find(group);
  if (rate == learning_rate.end()) fail("parameter group '", group, "' has no learning rate");
  return rate->second;
}

}  // namespace ldmtune::optim
