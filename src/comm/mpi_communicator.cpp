#include <algorithm>
#include <climits>
#include <exception>
#include <numeric>

#include "comm/halving.h"
#include "comm/mpi_check.h"
#include "comm/transports.h"

namespace ldmtune::comm {

namespace {

constexpr int kTag = 1;

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(std::int64_t max_message_elements) : max_message_(max_message_elements) {
    // A communicator of our own: our messages cannot meet those of a library that uses the world.
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    MPI_Comm host = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
    check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(host, &local_size_), "MPI_Comm_size");
    check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  }

  ~MpiCommunicator() override {
    // Freeing is collective; a rank on its way out with an exception must not wait for the others.
    if (mpi_is_running() && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  void barrier() override { check_mpi(MPI_Barrier(comm_), "MPI_Barrier"); }
  bool accepts_device_buffers() const override { return size_ == 1; }

  void reduce_scatter(std::span<float> data, const AddInto& add) override;
  void all_gather(std::span<float> data) override;
  std::vector<double> all_gather(std::span<const double> values) override;
  std::vector<std::string> all_gather(const std::string& bytes) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::string broadcast(const std::string& bytes, int root) override;
  bool any(bool value) override;
  [[noreturn]] void abort(int exit_code) override;

 private:
  /// Sends and receives at once, in pieces that fit MPI's counts.
  void exchange(int partner, std::span<const float> send, std::span<float> receive);
  float* scratch(std::int64_t elements);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::int64_t max_message_;
  std::unique_ptr<float[]> scratch_;  ///< kept between calls: a step's halves always have the same sizes
  std::int64_t scratch_elements_ = 0;
};

std::span<float> part(std::span<float> data, Range range) {
  return data.subspan(static_cast<std::size_t>(range.begin), static_cast<std::size_t>(range.size()));
}

float* MpiCommunicator::scratch(std::int64_t elements) {
  if (scratch_elements_ < elements) {
    scratch_ = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(elements));
    scratch_elements_ = elements;
  }
  return scratch_.get();
}

void MpiCommunicator::exchange(int partner, std::span<const float> send, std::span<float> receive) {
  const auto limit = static_cast<std::size_t>(max_message_);
  // Both partners see the same pair of sizes, hence make the same number of calls.
  while (!send.empty() || !receive.empty()) {
    const std::size_t sent = std::min(limit, send.size()), received = std::min(limit, receive.size());
    check_mpi(MPI_Sendrecv(send.data(), static_cast<int>(sent), MPI_FLOAT, partner, kTag, receive.data(),
                           static_cast<int>(received), MPI_FLOAT, partner, kTag, comm_, MPI_STATUS_IGNORE),
              "MPI_Sendrecv");
    send = send.subspan(sent);
    receive = receive.subspan(received);
  }
}

void MpiCommunicator::reduce_scatter(std::span<float> data, const AddInto& add) {
  for (const HalvingStep& step : halving_steps(static_cast<std::int64_t>(data.size()), rank_, size_)) {
    const std::int64_t kept = step.keep.size();
    float* received = scratch(kept);
    exchange(step.partner, part(data, step.give), {received, static_cast<std::size_t>(kept)});
    if (kept > 0) add(data.data() + step.keep.begin, received, kept);
  }
}

void MpiCommunicator::all_gather(std::span<float> data) {
  const auto steps = halving_steps(static_cast<std::int64_t>(data.size()), rank_, size_);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step)
    exchange(step->partner, part(data, step->keep), part(data, step->give));
}

std::vector<double> MpiCommunicator::all_gather(std::span<const double> values) {
  if (values.size() > INT_MAX) fail("all_gather of ", values.size(), " values a rank: too many for one message");
  std::vector<double> all(values.size() * static_cast<std::size_t>(size_));
  const int count = static_cast<int>(values.size());
  check_mpi(MPI_Allgather(values.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, comm_), "MPI_Allgather");
  return all;
}

std::vector<std::string> MpiCommunicator::all_gather(const std::string& bytes) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(size_));
  const auto length = static_cast<std::int64_t>(bytes.size());
  check_mpi(MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_), "MPI_Allgather");
  std::vector<std::string> all;
  if (std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}) > INT_MAX) {
    for (int root = 0; root < size_; ++root) all.push_back(broadcast(bytes, root));
    return all;
  }
  std::vector<int> counts(lengths.begin(), lengths.end()), offsets(lengths.size());
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  std::string joined(static_cast<std::size_t>(offsets.back() + counts.back()), '\0');
  check_mpi(MPI_Allgatherv(bytes.data(), static_cast<int>(length), MPI_BYTE, joined.data(), counts.data(),
                           offsets.data(), MPI_BYTE, comm_),
            "MPI_Allgatherv");
  for (std::size_t i = 0; i < counts.size(); ++i)
    all.push_back(joined.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(counts[i])));
  return all;
}

void MpiCommunicator::broadcast(std::span<std::byte> data, int root) {
  while (!data.empty()) {
    const std::size_t count = std::min(static_cast<std::size_t>(max_message_), data.size());
    check_mpi(MPI_Bcast(data.data(), static_cast<int>(count), MPI_BYTE, root, comm_), "MPI_Bcast");
    data = data.subspan(count);
  }
}

std::string MpiCommunicator::broadcast(const std::string& bytes, int root) {
  auto length = static_cast<std::int64_t>(bytes.size());
  check_mpi(MPI_Bcast(&length, 1, MPI_INT64_T, root, comm_), "MPI_Bcast");
  std::string received = rank_ == root ? bytes : std::string(static_cast<std::size_t>(length), '\0');
  broadcast(std::as_writable_bytes(std::span(received.data(), received.size())), root);
  return received;
}

bool MpiCommunicator::any(bool value) {
  int mine = value ? 1 : 0, all = 0;
  check_mpi(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MAX, comm_), "MPI_Allreduce");
  return all != 0;
}

void MpiCommunicator::abort(int exit_code) { end_all_ranks(exit_code); }

}  // namespace

std::unique_ptr<Communicator> mpi_world(std::int64_t max_message_elements) {
  return std::make_unique<MpiCommunicator>(max_message_elements);
}

}  // namespace ldmtune::comm
