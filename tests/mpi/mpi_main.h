#pragma once
// main of an MPI test program: every rank runs the same tests; rank 0 reports, the others speak only of failures, and a
// failing rank ends all of them, since the others may wait for it.

#include <gtest/gtest.h>

#include <cstdio>
#include <memory>

#include "comm/communicator.h"

namespace ldmtune::testing_mpi {

class AbortOnFailure final : public testing::EmptyTestEventListener {
 public:
  explicit AbortOnFailure(std::unique_ptr<comm::Communicator> world) : world_(std::move(world)) {}

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", world_->rank(), result.file_name() ? result.file_name() : "?",
                   result.line_number(), result.message());
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    if (test.result()->Failed()) world_->abort(1);
  }
  void OnTestProgramEnd(const testing::UnitTest&) override { world_.reset(); }

 private:
  std::unique_ptr<comm::Communicator> world_;
};

/// Call with a Runtime alive.
inline int run_mpi_tests(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto world = comm::world();
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world->rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new AbortOnFailure(std::move(world)));
  return RUN_ALL_TESTS();
}

}  // namespace ldmtune::testing_mpi
