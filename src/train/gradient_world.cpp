#include "train/gradient_world.h"

#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string>

#include "core/error.h"

namespace ldmtune::train {
namespace {

/// Names the physical GPU as well as a process can: host, what it may see, which of these it took.
std::string gpu_label(const at::Device& device) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return cat(host, '|', visible ? visible : "", '|', static_cast<int>(device.index()));
}

}  // namespace

std::unique_ptr<comm::Communicator> gradient_world(const at::Device& device, comm::Communicator& comm) {
  if (comm.size() == 1) return nullptr;
  // NCCL refuses two ranks on one GPU. A rank on the CPU has no label of its own either.
  const std::vector<std::string> labels = comm.all_gather(device.is_cuda() ? gpu_label(device) : std::string("cpu"));
  if (std::set<std::string>(labels.begin(), labels.end()).size() != labels.size()) return nullptr;
  auto world = comm::world(/*device_buffers=*/true);
  return world->accepts_device_buffers() ? std::move(world) : nullptr;
}

}  // namespace ldmtune::train
