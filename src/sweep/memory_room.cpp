#include "sweep/memory_room.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <fstream>
#include <string_view>

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

/// What the files of one version of control groups are called.
struct GroupFiles {
  const char *folder, *limit, *used, *reclaimable;
};
constexpr GroupFiles kVersion2{"", "memory.max", "memory.current", "inactive_file"};
constexpr GroupFiles kVersion1{"memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};

/// 0 without one: the file is missing, or says "max".
double number_in(const fs::path& file) {
  std::ifstream stream(file);
  double value = 0;
  return stream >> value ? value : 0;
}

/// The number behind `name` in lines of "name number"; 0 without one.
double number_of(const fs::path& file, std::string_view name) {
  std::ifstream stream(file);
  std::string word;
  for (double value = 0; stream >> word >> value; stream.ignore(64, '\n')) {
    if (word == name) return value;
  }
  return 0;
}

/// Narrows `room` by the limits of the group `path` and of all that it lies in.
void limit_by(MemoryRoom& room, const fs::path& groups, fs::path path, const GroupFiles& files) {
  const fs::path root = groups / files.folder;
  for (path = path.relative_path();; path = path.parent_path()) {
    const fs::path group = root / path;
    const double limit = number_in(group / files.limit);
    if (limit > 0 && limit < room.bytes) {
      room.what = "this job or container";
      room.bytes = limit;
    }
    if (limit > 0) {
      const double used = number_in(group / files.used) - number_of(group / "memory.stat", files.reclaimable);
      room.free = std::clamp(limit - used, 0.0, room.free);
    }
    if (path.empty()) return;
  }
}

}  // namespace

MemoryRoom room_of_host(const fs::path& proc, const fs::path& groups) {
  MemoryRoom room{"this machine", 1024 * number_of(proc / "meminfo", "MemTotal:"),
                  1024 * number_of(proc / "meminfo", "MemAvailable:")};
  std::ifstream memberships(proc / "self" / "cgroup");  // "0::/path" (version 2), "4:memory:/path" (version 1)
  for (std::string line; std::getline(memberships, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) limit_by(room, groups, line.substr(second + 1), kVersion2);
    if (controllers == "memory") limit_by(room, groups, line.substr(second + 1), kVersion1);
  }
  return room;
}

MemoryRoom room_of(const at::Device& device) {
  if (device.is_cpu()) return room_of_host();
  const auto [free, all] = at::accelerator::getMemoryInfo(device.index());
  return {"GPU " + std::to_string(device.index()), static_cast<double>(all), static_cast<double>(free)};
}

}  // namespace ldmtune::sweep
