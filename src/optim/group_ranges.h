#pragma once
// Which elements of a rank's slice belong to which parameter group: what every optimizer walks over.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optim/arena.h"

namespace ldmtune::optim {

/// Elements [begin, end) of an arena that belong to one parameter group.
struct GroupRange {
  std::string group;
  std::int64_t begin = 0, end = 0;
};

/// The arena's elements [begin, end) as the fewest ranges of one group each: neighbours of a group are joined, and the
/// padding after each parameter is included (zeros, which every optimizer leaves zero), so that every range is whole
/// vectors: the fused kernel's scalar tail rounds differently. Ranges may begin and end within a parameter.
std::vector<GroupRange> group_ranges(const Arena& arena, std::int64_t begin, std::int64_t end);

/// Errors: Error if the slice is not within the arena or does not begin and end at multiples of kArenaAlignment.
void check_slice(const Arena& arena, std::int64_t begin, std::int64_t end);

/// The group's entry. Errors: Error if there is none.
double rate_of(const std::map<std::string, double>& learning_rate, const std::string& group);

}  // namespace ldmtune::optim
