#include "train/bench.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/grad_mode.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

namespace ldmtune::train {
namespace {

using Clock = std::chrono::steady_clock;

/// A GPU works on after a call returns.
void wait_for(at::Device device) {
  if (!device.is_cpu()) at::accelerator::synchronizeDevice(device.index());
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Spent timed(at::Device device, const std::function<void()>& work) {
  wait_for(device);
  const double cpu = cpu_seconds();
  const auto begin = Clock::now();
  work();
  wait_for(device);
  return {std::chrono::duration<double>(Clock::now() - begin).count(), cpu_seconds() - cpu};
}

}  // namespace

Bench::Bench(const TrainConfig& config, std::size_t trials, SharedSetup& shared, comm::Communicator& comm)
    : setup_(config, shared, comm.size()),
      device_(shared.device),
      packed_(shared.base, shared.prompts, config.train.global_batch_size, config.train.micro_batch_size, comm, trials),
      alone_(shared.base, shared.prompts, config.train.global_batch_size, config.train.micro_batch_size, comm) {
  for (std::size_t i = 0; i < trials; ++i) {
    TrainConfig own = setup_.config;
    own.train.seed += i;
    trials_.push_back(make_trial(own, shared.base, setup_.source, setup_.max_train_steps, comm, device_,
                                 setup_.class_source ? &*setup_.class_source : nullptr));
  }
}

Spent Bench::step_packed() {
  std::vector<Trial*> members;
  for (Trial& trial : trials_) members.push_back(&trial);
  return timed(device_, [&] { packed_.run(members); });
}

Spent Bench::step_in_turn() {
  return timed(device_, [&] {
    for (Trial& trial : trials_) alone_.run({&trial});
  });
}

double measured_peak(at::Device device, at::ScalarType dtype, double seconds) {
  const at::NoGradGuard no_grad;
  const std::int64_t size = device.is_cpu() ? 1024 : 8192;
  const at::Tensor matrix = at::full({size, size}, 0.5, at::TensorOptions(dtype).device(device));
  double fastest = std::numeric_limits<double>::infinity(), spent = 0;
  for (int round = 0; round < 3 || spent < seconds; ++round) {
    const double took = timed(device, [&] { at::mm(matrix, matrix); }).seconds;
    fastest = std::min(fastest, took);
    spent += took;
  }
  const auto n = static_cast<double>(size);
  return 2 * n * n * n / fastest;
}

std::int64_t peak_host_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

std::int64_t peak_device_memory(at::Device device) {
  if (device.is_cpu()) return 0;
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<std::size_t>(at::CachingAllocator::StatType::AGGREGATE)].peak;
}

}  // namespace ldmtune::train
