#include "train/collectives.h"

#include <cstring>

#include "comm/canonical_tree.h"

namespace ldmtune::train {
namespace {

std::span<float> span_of(at::Tensor& flat) { return {flat.data_ptr<float>(), static_cast<std::size_t>(flat.numel())}; }

/// How two partial sums are added where the buffers live.
comm::AddInto add_on(const at::Device& device) {
  return [device](float* a, const float* b, std::int64_t n) {
    const auto options = at::TensorOptions(at::kFloat).device(device);
    at::from_blob(a, {n}, options).add_(at::from_blob(const_cast<float*>(b), {n}, options));
  };
}

/// Runs `collective` on the buffer itself, or on a host copy of a device buffer that the communicator cannot send.
template <class Collective>
void where_it_can_be_sent(const comm::Communicator& comm, at::Tensor& flat, const Collective& collective) {
  if (flat.is_cpu() || comm.accepts_device_buffers()) {
    collective(span_of(flat), flat.device());
    return;
  }
  at::Tensor host = flat.to(at::kCPU);
  collective(span_of(host), host.device());
  flat.copy_(host);
}

}  // namespace

void reduce_scatter(comm::Communicator& comm, at::Tensor& flat) {
  if (comm.size() == 1) return;
  where_it_can_be_sent(
      comm, flat, [&](std::span<float> data, const at::Device& device) { comm.reduce_scatter(data, add_on(device)); });
}

void all_gather(comm::Communicator& comm, at::Tensor& flat) {
  if (comm.size() == 1) return;
  where_it_can_be_sent(comm, flat, [&](std::span<float> data, const at::Device&) { comm.all_gather(data); });
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

std::vector<double> all_gather_by_slice(comm::Communicator& comm, const std::vector<double>& values) {
  const std::vector<std::string> by_rank = comm.all_gather(to_bytes(values));
  std::vector<double> all;
  for (int position = 0; position < comm.size(); ++position) {
    const auto rank = static_cast<std::size_t>(comm::slice_position(position, comm.size()));
    const std::vector<double> part = from_bytes(by_rank[rank]);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

optim::GlobalSum global_sum(comm::Communicator& comm) {
  return [&comm](const std::vector<double>& blocks) { return comm::canonical_sum(all_gather_by_slice(comm, blocks)); };
}

}  // namespace ldmtune::train
