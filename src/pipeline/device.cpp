#include "pipeline/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "core/error.h"

namespace ldmtune::pipeline {

at::Device choose_device(const std::string& name, const comm::Communicator& comm) {
  if (name != "auto" && name != "cpu" && name != "cuda") {
    fail_input("device: expected auto, cpu or cuda, found \"", name, "\"");
  }
  const int gpus = name != "cpu" && at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0;
  if (gpus == 0) {
    if (name == "cuda") {
      fail_input("device: cuda was asked for, but ", at::hasCUDA() ? "no GPU is visible" : "this build has no CUDA",
                 "; choose cpu or auto");
    }
    return at::kCPU;
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(comm.local_rank() % gpus));
}

}  // namespace ldmtune::pipeline
