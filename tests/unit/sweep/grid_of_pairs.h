#pragma once
// Grids of a few options, for tests.

#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "sweep/grid.h"

namespace ldmtune::sweep {

using Pairs = std::vector<std::pair<std::string, std::string>>;

inline Grid expand(const Pairs& pairs) {
  std::vector<OptionSetting> settings{{"sweep.output", "runs/x", "test"}};
  for (const auto& [name, value] : pairs) settings.push_back({name, value, "test"});
  return expand_grid(settings);
}

/// What expand says, or "no error".
inline std::string error_of(const Pairs& pairs) {
  try {
    expand(pairs);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace ldmtune::sweep
