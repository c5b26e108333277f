// One failing rank ends all, with a message. Rank 0 starts jobs of its own: this program again, with "--fail" and a way
// to.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>

#include "comm/communicator.h"
#include "comm/transports.h"
#include "core/error.h"
#include "mpi_main.h"

extern char** environ;

namespace ldmtune::comm {
namespace {

void reduce_or_abort(Communicator& comm) {
  try {
    comm.reduce_scatter({}, add_on_host);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    comm.abort(static_cast<int>(error.code()));
  }
}

/// The last rank fails in the given way while the others wait for it.
int fail_on_purpose(const std::string& way, int ranks_expected) {
  const auto comm = world();
  if (comm->size() != ranks_expected) return 90;
  if (comm->rank() + 1 == comm->size()) {
    if (way == "abort") comm->abort(85);
    if (way == "throw") throw std::runtime_error("thrown on purpose");
    if (way == "three") reduce_or_abort(*comm);
  }
  comm->barrier();
  return 0;
}

int run_failing(int argc, char** argv, const std::string& way) {
  try {
    const Runtime runtime(argc, argv);
    return fail_on_purpose(way, way == "three" ? 3 : 2);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "caught: %s\n", error.what());
    return 7;
  }
}

struct JobResult {
  int exit_code = -1;
  std::string output;
  double seconds = 0;
};

/// Runs this program under an mpirun of its own, free of the variables by which this rank knows its job.
JobResult run_job(const std::string& way, int ranks) {
  std::string command = "env";
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string name(*variable, std::strcspn(*variable, "="));
    const bool launcher = name.starts_with("OMPI_") || name.starts_with("PMIX_") || name.starts_with("PRTE_");
    if (launcher && !name.starts_with("OMPI_ALLOW_RUN_AS_ROOT")) command += " -u " + name;
  }
  command += " OMPI_MCA_mpi_yield_when_idle=1 mpirun --oversubscribe --bind-to none -n " + std::to_string(ranks) +
             " '" + std::filesystem::read_symlink("/proc/self/exe").string() + "' --fail " + way + " 2>&1";
  JobResult result;
  const auto start = std::chrono::steady_clock::now();
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) result.output.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

/// Rank 0's job; the others sleep meanwhile instead of spinning in a barrier.
JobResult run_job_on_rank_0(const std::string& way, int ranks) {
  const auto comm = world();
  const auto done = std::filesystem::temp_directory_path() /
                    comm->broadcast("ldmtune-failure-test-" + std::to_string(getpid()) + "-" + way, 0);
  JobResult result;
  if (comm->rank() == 0) {
    result = run_job(way, ranks);
    std::fclose(std::fopen(done.c_str(), "w"));
  } else {
    while (!std::filesystem::exists(done)) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  comm->barrier();
  if (comm->rank() == 0) std::filesystem::remove(done);
  const std::string code = comm->broadcast(std::to_string(result.exit_code), 0);
  return {std::stoi(code), comm->broadcast(result.output, 0),
          std::stod(comm->broadcast(std::to_string(result.seconds), 0))};
}

TEST(Failure, AbortEndsAllRanksWithTheCodeAndNamesRankAndHost) {
  const JobResult job = run_job_on_rank_0("abort", 2);
  EXPECT_EQ(job.exit_code, 85) << job.output;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  EXPECT_NE(job.output.find(cat("rank 1 of 2 on host ", host, " failed")), std::string::npos) << job.output;
  EXPECT_LT(job.seconds, 60);
}

TEST(Failure, AnExceptionThatLeavesTheRuntimeEndsAllRanks) {
  const JobResult job = run_job_on_rank_0("throw", 2);
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_NE(job.output.find("ldmtune: rank 1 of 2 on host "), std::string::npos) << job.output;
  EXPECT_LT(job.seconds, 60);
}

TEST(Failure, ThreeRanksCannotReduce) {
  const JobResult job = run_job_on_rank_0("three", 3);
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_NE(job.output.find("a power of two, not 3"), std::string::npos) << job.output;
}

TEST(Failure, AFailedMessageIsAnErrorWithMpisWords) {
  if (!mpi_is_running()) FAIL() << "start this program with mpirun";
  const auto comm = world();
  try {
    comm->broadcast("text", comm->size() + 5);
    FAIL() << "there is no such root";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("MPI_Bcast failed: MPI_ERR_ROOT"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace ldmtune::comm

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--fail") return ldmtune::comm::run_failing(argc, argv, argv[2]);
  const ldmtune::comm::Runtime runtime(argc, argv);
  return ldmtune::testing_mpi::run_mpi_tests(argc, argv);
}
