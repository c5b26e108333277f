// Work with collectives in it that fails on one rank: all ranks learn it, none waits.

#include "core/error.h"
#include "mpi_main.h"
#include "pipeline/agreeing_communicator.h"

namespace ldmtune::pipeline {
namespace {

class Agreeing : public testing::Test {
 protected:
  /// What work_together threw on this rank; empty if nothing.
  std::string error_of(const std::function<void()>& work) {
    try {
      agreeing_.work_together(work);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  bool is_last() const { return agreeing_.rank() == agreeing_.size() - 1; }
  std::string named(const std::string& message) const {
    return agreeing_.size() == 1 ? message : cat(message, " [rank ", agreeing_.size() - 1, "]");
  }
  /// Each rank's number, through a collective.
  std::vector<double> numbers() {
    return agreeing_.all_gather(std::vector<double>{static_cast<double>(agreeing_.rank())});
  }
  void expect_all_here() { EXPECT_EQ(numbers().size(), static_cast<std::size_t>(agreeing_.size())); }

  std::unique_ptr<comm::Communicator> world_ = comm::world();
  AgreeingCommunicator agreeing_{*world_};
};

TEST_F(Agreeing, WorkThatSucceedsMeetsItsCollectives) {
  std::vector<double> found;
  std::string word;
  EXPECT_EQ(error_of([&] {
              found = numbers();
              word = agreeing_.broadcast(std::string("from ") + std::to_string(agreeing_.rank()), 0);
              agreeing_.barrier();
            }),
            "");
  EXPECT_EQ(found.size(), static_cast<std::size_t>(agreeing_.size()));
  EXPECT_EQ(found.back(), agreeing_.size() - 1);
  EXPECT_EQ(word, "from 0");
}

TEST_F(Agreeing, AFailureBetweenCollectivesEndsTheWorkOfAllRanks) {
  int reached = 0;
  EXPECT_EQ(error_of([&] {
              numbers();
              if (is_last()) fail("disk full");
              ++reached;
              agreeing_.barrier();
              ++reached;
              numbers();
            }),
            named("disk full"));
  EXPECT_EQ(reached, is_last() ? 0 : 1);  // the others stop at their next collective
  expect_all_here();
}

TEST_F(Agreeing, AFailureAfterTheLastCollectiveIsAgreedOnToo) {
  EXPECT_EQ(error_of([&] {
              numbers();
              if (is_last()) throw std::runtime_error("no space");
            }),
            named("no space"));
  EXPECT_EQ(error_of([&] { numbers(); }), "");
}

TEST_F(Agreeing, TheLowestRankIsHeardAndTheKindIsKept) {
  EXPECT_THROW(agreeing_.work_together([] { fail_input("wrong everywhere"); }), InputError);
  EXPECT_EQ(error_of([&] { fail("rank ", agreeing_.rank()); }), "rank 0");
}

TEST_F(Agreeing, AFailureThatTheWorkHidesStaysOne) {
  int caught = 0;
  EXPECT_EQ(error_of([&] {
              if (is_last()) fail("lost");
              for (int i = 0; i < 2; ++i) {
                try {
                  numbers();
                } catch (const Error&) {
                  ++caught;
                }
              }
            }),
            named("lost"));
  EXPECT_EQ(caught, is_last() ? 0 : 2);
  expect_all_here();
}

TEST_F(Agreeing, WorkWithinWorkFailsAsOne) {
  EXPECT_EQ(error_of([&] {
              agreeing_.work_together([&] {
                if (is_last()) fail("inner");
                numbers();
              });
            }),
            named("inner"));
  expect_all_here();
}

}  // namespace
}  // namespace ldmtune::pipeline

int main(int argc, char** argv) {
  ldmtune::comm::Runtime runtime(argc, argv);
  return ldmtune::testing_mpi::run_mpi_tests(argc, argv);
}
