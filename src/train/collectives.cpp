#include "train/collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace ldmtune::train {
namespace {

std::span<float> span_of(at::Tensor& flat) { return {flat.data_ptr<float>(), static_cast<std::size_t>(flat.numel())}; }

void add_on_host(float* a, const float* b, std::int64_t n) {
  at::Tensor into = at::from_blob(a, {n}, at::kFloat);
  into.add_(at::from_blob(const_cast<float*>(b), {n}, at::kFloat));
}

/// Runs `collective` on the buffer itself, or on a host copy of a device buffer.
template <class Collective>
void on_host(at::Tensor& flat, const Collective& collective) {
  if (flat.is_cpu()) {
    collective(span_of(flat));
    return;
  }
  at::Tensor host = flat.to(at::kCPU);
  collective(span_of(host));
  flat.copy_(host);
}

}  // namespace

void reduce_scatter(comm::Communicator& comm, at::Tensor& flat) {
  if (comm.size() == 1) return;
  on_host(flat, [&](std::span<float> data) { comm.reduce_scatter(data, add_on_host); });
}

void all_gather(comm::Communicator& comm, at::Tensor& flat) {
  if (comm.size() == 1) return;
  on_host(flat, [&](std::span<float> data) { comm.all_gather(data); });
}

std::string to_bytes(const std::vector<double>& values) {
  std::string bytes(values.size() * sizeof(double), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<double> from_bytes(const std::string& bytes) {
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(double));
  return values;
}

std::vector<double> all_gather_by_slice(comm::Communicator& comm, const std::vector<double>& values,
                                        std::int64_t elements) {
  const std::vector<std::string> by_rank = comm.all_gather(to_bytes(values));
  std::vector<int> order(by_rank.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    return comm::owned_slice(elements, a, comm.size()).begin < comm::owned_slice(elements, b, comm.size()).begin;
  });
  std::vector<double> all;
  for (const int rank : order) {
    const std::vector<double> part = from_bytes(by_rank[static_cast<std::size_t>(rank)]);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace ldmtune::train
