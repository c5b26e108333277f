// The collectives at however many ranks mpirun gives (a power of two).

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "comm/canonical_tree.h"
#include "comm/halving.h"
#include "comm/transports.h"
#include "mpi_main.h"

namespace ldmtune::comm {
namespace {

using Vector = std::vector<float>;

constexpr std::int64_t kLeaves = 8;
/// Not multiples of the block; smaller than a block; fewer blocks than ranks.
const std::vector<std::int64_t> kSizes{1, 1000, kBlockElements, 3 * kBlockElements + 17, 9 * kBlockElements - 1};

/// Leaf `leaf` of the global batch: floats of very different size, the same whatever rank makes them.
Vector make_leaf(std::int64_t leaf, std::int64_t elements) {
  Vector values(static_cast<std::size_t>(elements));
  auto state = static_cast<std::uint32_t>(leaf * 7919 + 2463534242);
  for (float& value : values) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    value = (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * static_cast<float>(1 << (state % 20));
  }
  return values;
}

Vector sum_of(Vector a, const Vector& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// The whole tree in one process, by recursion.
Vector serial_tree(std::int64_t begin, std::int64_t end, std::int64_t elements) {
  if (end - begin == 1) return make_leaf(begin, elements);
  const std::int64_t middle = canonical_split(begin, end);
  return sum_of(serial_tree(begin, middle, elements), serial_tree(middle, end, elements));
}

Vector partial_sum(const Communicator& comm, std::int64_t elements) {
  LeafAccumulator<Vector> accumulator([](Vector& a, const Vector& b) { a = sum_of(std::move(a), b); });
  const std::int64_t each = kLeaves / comm.size();
  for (std::int64_t i = 0; i < each; ++i) accumulator.push(make_leaf(comm.rank() * each + i, elements));
  return accumulator.finish();
}

bool same_bits(const float* a, const float* b, std::int64_t n) {
  return std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(float)) == 0;
}

void expect_canonical_sum(Communicator& comm, std::int64_t elements) {
  const Vector expected = serial_tree(0, kLeaves, elements);
  Vector data = partial_sum(comm, elements);
  comm.reduce_scatter(data, add_on_host);
  const Range slice = owned_slice(elements, comm.rank(), comm.size());
  EXPECT_TRUE(same_bits(data.data() + slice.begin, expected.data() + slice.begin, slice.size()))
      << elements << " elements";
  comm.all_gather(data);
  EXPECT_TRUE(same_bits(data.data(), expected.data(), elements)) << elements << " elements, gathered";
}

TEST(Collectives, ReduceScatterIsTheSerialCanonicalTreeToTheBit) {
  const auto comm = world();
  for (const std::int64_t elements : kSizes) expect_canonical_sum(*comm, elements);
}

TEST(Collectives, MessagesAboveTheLimitGoInPieces) {
  const auto comm = mpi_is_running() ? mpi_world(1000) : self();
  for (const std::int64_t elements : kSizes) expect_canonical_sum(*comm, elements);
}

TEST(Collectives, AllGatherSendsEachSliceToAll) {
  const auto comm = world();
  const std::int64_t elements = 5 * kBlockElements + 3;
  Vector data(static_cast<std::size_t>(elements), -1.0f);
  const Range slice = owned_slice(elements, comm->rank(), comm->size());
  for (std::int64_t i = slice.begin; i < slice.end; ++i) data[static_cast<std::size_t>(i)] = static_cast<float>(i);
  comm->all_gather(data);
  Vector expected(static_cast<std::size_t>(elements));
  std::iota(expected.begin(), expected.end(), 0.0f);
  EXPECT_EQ(data, expected);
}

TEST(Collectives, ScratchIsReusedForSmallerAndLargerVectors) {
  const auto comm = world();
  for (const std::int64_t elements : {3 * kBlockElements, std::int64_t{10}, 6 * kBlockElements + 1})
    expect_canonical_sum(*comm, elements);
}

TEST(Collectives, ValuesAndBytesComeInRankOrder) {
  const auto comm = world();
  const double mine = comm->rank();
  const auto values = comm->all_gather(std::vector<double>{mine, mine + 0.5});
  ASSERT_EQ(values.size(), 2u * static_cast<std::size_t>(comm->size()));
  const auto bytes = comm->all_gather(std::string(static_cast<std::size_t>(comm->rank()) * 3, 'x') + '\0');
  ASSERT_EQ(bytes.size(), static_cast<std::size_t>(comm->size()));
  for (int rank = 0; rank < comm->size(); ++rank) {
    const auto index = static_cast<std::size_t>(rank);
    EXPECT_EQ(values[2 * index], rank);
    EXPECT_EQ(values[2 * index + 1], rank + 0.5);
    EXPECT_EQ(bytes[index], std::string(index * 3, 'x') + '\0');
  }
}

TEST(Collectives, BroadcastFromAnyRank) {
  const auto comm = mpi_is_running() ? mpi_world(1000) : self();
  for (int root = 0; root < comm->size(); ++root) {
    const std::string text(2500 + static_cast<std::size_t>(root), static_cast<char>('a' + root));
    EXPECT_EQ(comm->broadcast(comm->rank() == root ? text : "something else", root), text);
    std::vector<double> numbers(3, comm->rank());
    comm->broadcast(std::as_writable_bytes(std::span(numbers)), root);
    EXPECT_EQ(numbers, std::vector<double>(3, root));
  }
  EXPECT_EQ(comm->broadcast("", 0), "");
}

TEST(Collectives, AnyIsTrueEverywhereIfOneRankSaysSo) {
  const auto comm = world();
  for (int speaker = 0; speaker < comm->size(); ++speaker) EXPECT_TRUE(comm->any(comm->rank() == speaker));
  EXPECT_FALSE(comm->any(false));
}

TEST(Collectives, RanksOfOneHostAreCounted) {
  const auto comm = world();
  EXPECT_EQ(comm->local_size(), comm->size()) << "mpirun starts these tests on one machine";
  EXPECT_EQ(comm->local_rank(), comm->rank());
  comm->barrier();
}

}  // namespace
}  // namespace ldmtune::comm

int main(int argc, char** argv) {
  const ldmtune::comm::Runtime runtime(argc, argv);
  return ldmtune::testing_mpi::run_mpi_tests(argc, argv);
}
