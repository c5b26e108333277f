#pragma once
// Ranks and the canonical tree. The only header that stands for MPI; mpi.h is included in comm/*.cpp alone.
//
// Canonical tree: a global batch is `leaves` gradient vectors whatever the number of ranks. Rank r of p holds leaves
// [r L/p, (r+1) L/p), sums them as the aligned tree (comm/canonical_tree.h), and the ranks' partial sums are combined
// by pairwise exchanges at distance 1, 2, 4 ..., halving the vector each time. Every node of the tree is one a + b of
// IEEE floats, so the result has the same bits on any valid number of ranks.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ldmtune::comm {

/// MPI's lifetime. Construct once at the start of main; the destructor finalizes. MPI is initialized
/// (MPI_THREAD_FUNNELED) only where a launcher's variables say that this process is one of its ranks; a program started
/// by hand is rank 0 of 1 and touches no MPI daemon, so that `--help` works on a login node. Errors: Error where MPI
/// gives no funneled threads.
class Runtime {
 public:
  Runtime(int& argc, char**& argv);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
};

/// Half-open range of elements [begin, end).
struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

/// Elements of one block: slices of the arena start on multiples of it.
inline constexpr std::int64_t kBlockElements = 64 * 1024;

/// The slice of [0, elements) that `rank` of `world_size` owns after a reduce-scatter. A pure function; slices start on
/// block boundaries, cover everything once, and may be empty. They do not lie in rank order: see slice_position.
/// Errors: Error unless world_size is a power of two and rank lies below it.
Range owned_slice(std::int64_t elements, int rank, int world_size);

/// Position of the rank's slice among all slices in the order of elements: the rank's bits reversed, because the
/// nearest partner's exchange halves the vector first. It is its own inverse: the slice at position i is owned by rank
/// slice_position(i, world_size).
int slice_position(int rank, int world_size);

/// a[i] += b[i] for i in [0, n): how two partial sums are added where the buffers live (host or device).
using AddInto = std::function<void(float* a, const float* b, std::int64_t n)>;
/// AddInto for buffers in host memory.
void add_on_host(float* a, const float* b, std::int64_t n);

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Index of this rank among those of its host, and their number.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  virtual void barrier() = 0;
  /// Whether `data` of the two calls below may be device memory. If not, the caller copies it through the host.
  virtual bool accepts_device_buffers() const = 0;

  /// Canonical-tree sum over ranks of `data` (in place): afterwards this rank's owned_slice(data.size(), rank, size)
  /// holds the sum; the rest is scratch. Ranks combine nearest partner first. All ranks give equally many elements.
  /// Errors: Error where size() is not a power of two, or a message fails.
  virtual void reduce_scatter(std::span<float> data, const AddInto& add) = 0;
  /// Each rank's owned slice of `data` is sent to all ranks (in place): the inverse of reduce_scatter.
  virtual void all_gather(std::span<float> data) = 0;

  /// Every rank's values in rank order; all ranks give equally many.
  virtual std::vector<double> all_gather(std::span<const double> values) = 0;
  /// Every rank's bytes in rank order, of any lengths.
  virtual std::vector<std::string> all_gather(const std::string& bytes) = 0;
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  virtual std::string broadcast(const std::string& bytes, int root) = 0;
  /// True on all ranks if it is true on any.
  virtual bool any(bool value) = 0;

  /// Ends every rank of the job at once with this exit code (MPI_Abort), after a line on standard error that names this
  /// rank and its host: one failing rank must not leave the others waiting.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

/// The world of MPI ranks (a world of one where MPI was not initialized). Collective; release it before the Runtime.
std::unique_ptr<Communicator> world();
/// With `device_buffers`, reduce_scatter and all_gather of floats go through NCCL where it was built in: they then also
/// take memory of the CUDA device that was current at this call, and work in CUDA's default stream. Ask
/// accepts_device_buffers() whether they do.
std::unique_ptr<Communicator> world(bool device_buffers);
/// A world of one rank, for tests and for work that needs no others.
std::unique_ptr<Communicator> self();

}  // namespace ldmtune::comm
