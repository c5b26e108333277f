#include "train/device.h"

#include "core/error.h"

namespace ldmtune::train {

at::Device training_device(const std::string& option, const comm::Communicator& comm) {
  if (option != "auto" && option != "cpu" && option != "cuda") {
    fail_input("option train.device: expected auto, cpu or cuda, found '", option, "'");
  }
  const std::size_t gpus = option == "cpu" || !at::hasCUDA() ? 0 : at::getNumGPUs();
  if (option == "cuda" && gpus == 0) {
    fail_input(
        "option train.device: cuda asked for, but this rank sees no GPU (is LibTorch a CUDA build, is "
        "CUDA_VISIBLE_DEVICES set?)");
  }
  if (gpus == 0) return at::kCPU;
  return {at::kCUDA, static_cast<at::DeviceIndex>(static_cast<std::size_t>(comm.local_rank()) % gpus)};
}

}  // namespace ldmtune::train
