// Device buffers by NCCL: the same exchanges as MPI's, with ncclSend and ncclRecv in CUDA's default stream, where the
// caller's AddInto runs too. ncclReduceScatter would sum in an order of its own.

#ifdef LDMTUNE_HAVE_NCCL

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <exception>
#include <utility>

#include "comm/halving.h"
#include "comm/transports.h"
#include "core/error.h"

namespace ldmtune::comm {

namespace {

void check_nccl(ncclResult_t code, const char* call) {
  if (code != ncclSuccess) fail(call, " failed: ", ncclGetErrorString(code), " (", ncclGetLastError(nullptr), ")");
}

void check_cuda(cudaError_t code, const char* call) {
  if (code != cudaSuccess) fail(call, " failed: ", cudaGetErrorString(code));
}

bool is_on_device(const float* data) {
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

/// Buffers in host memory still go by MPI; all ranks give the same kind.
class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(std::unique_ptr<Communicator> host) : host_(std::move(host)) {
    ncclUniqueId id{};
    if (rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host_->broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    check_nccl(ncclCommInitRank(&comm_, size(), id, rank()), "ncclCommInitRank");
  }

  ~NcclCommunicator() override {
    cudaFree(scratch_);
    // Destroying is collective: a rank that leaves with an exception only drops its own end.
    if (std::uncaught_exceptions() == 0) {
      ncclCommDestroy(comm_);
    } else {
      ncclCommAbort(comm_);
    }
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int local_rank() const override { return host_->local_rank(); }
  int local_size() const override { return host_->local_size(); }
  void barrier() override { host_->barrier(); }
  bool accepts_device_buffers() const override { return true; }

  void reduce_scatter(std::span<float> data, const AddInto& add) override {
    if (!is_on_device(data.data())) return host_->reduce_scatter(data, add);
    for (const HalvingStep& step : halving_steps(static_cast<std::int64_t>(data.size()), rank(), size())) {
      float* received = scratch(step.keep.size());
      exchange(step.partner, data.data() + step.give.begin, step.give.size(), received, step.keep.size());
      if (step.keep.size() > 0) add(data.data() + step.keep.begin, received, step.keep.size());
    }
  }

  void all_gather(std::span<float> data) override {
    if (!is_on_device(data.data())) return host_->all_gather(data);
    const auto steps = halving_steps(static_cast<std::int64_t>(data.size()), rank(), size());
    for (auto step = steps.rbegin(); step != steps.rend(); ++step)
      exchange(step->partner, data.data() + step->keep.begin, step->keep.size(), data.data() + step->give.begin,
               step->give.size());
  }

  std::vector<double> all_gather(std::span<const double> values) override { return host_->all_gather(values); }
  std::vector<std::string> all_gather(const std::string& bytes) override { return host_->all_gather(bytes); }
  void broadcast(std::span<std::byte> data, int root) override { host_->broadcast(data, root); }
  std::string broadcast(const std::string& bytes, int root) override { return host_->broadcast(bytes, root); }
  bool any(bool value) override { return host_->any(value); }
  [[noreturn]] void abort(int exit_code) override { host_->abort(exit_code); }

 private:
  void exchange(int partner, const float* send, std::int64_t sent, float* receive, std::int64_t received) {
    if (sent == 0 && received == 0) return;
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    if (sent > 0)
      check_nccl(ncclSend(send, static_cast<std::size_t>(sent), ncclFloat32, partner, comm_, nullptr), "ncclSend");
    if (received > 0)
      check_nccl(ncclRecv(receive, static_cast<std::size_t>(received), ncclFloat32, partner, comm_, nullptr),
                 "ncclRecv");
    check_nccl(ncclGroupEnd(), "ncclGroupEnd");
  }

  /// Device memory that is kept between calls; cudaFree waits for the work that still reads the old one.
  float* scratch(std::int64_t elements) {
    if (scratch_elements_ < elements) {
      check_cuda(cudaFree(std::exchange(scratch_, nullptr)), "cudaFree");
      void* memory = nullptr;
      check_cuda(cudaMalloc(&memory, static_cast<std::size_t>(elements) * sizeof(float)), "cudaMalloc");
      scratch_ = static_cast<float*>(memory);
      scratch_elements_ = elements;
    }
    return scratch_;
  }

  std::unique_ptr<Communicator> host_;
  ncclComm_t comm_ = nullptr;
  float* scratch_ = nullptr;
  std::int64_t scratch_elements_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> nccl_world(std::unique_ptr<Communicator> host) {
  return std::make_unique<NcclCommunicator>(std::move(host));
}

}  // namespace ldmtune::comm

#endif  // LDMTUNE_HAVE_NCCL
