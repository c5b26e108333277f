#pragma once
// Memory that a rank may use, to compare with what sweep/memory_plan.h counts.

#include <ATen/ATen.h>

#include <filesystem>
#include <string>

namespace ldmtune::sweep {

struct MemoryRoom {
  std::string what;  ///< "this machine", "this job or container", "GPU 0"
  double bytes = 0, free = 0;
};

/// Of this machine, or of the memory control group (version 2 or 1) that limits this process further: of a Slurm job or
/// a container. Of what a group uses, pages of files that the kernel may drop count as free. The arguments are for
/// tests.
MemoryRoom room_of_host(const std::filesystem::path& proc = "/proc",
                        const std::filesystem::path& groups = "/sys/fs/cgroup");

/// Of the host for the CPU, else of the device.
MemoryRoom room_of(const at::Device& device);

}  // namespace ldmtune::sweep
