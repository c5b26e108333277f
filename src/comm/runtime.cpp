#include <cstdio>
#include <cstdlib>
#include <exception>

#include "comm/communicator.h"
#include "comm/mpi_check.h"
#include "comm/transports.h"

namespace ldmtune::comm {

namespace {

/// One of several processes of a Slurm step. Without a PMI variable beside it, MPI_Init is left to explain what is
/// missing: going on would start that many lone copies of the program on the same output folder.
bool is_one_of_many_slurm_tasks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return tasks != nullptr && std::atoi(tasks) > 1 && std::getenv("SLURM_STEP_ID") != nullptr;
}

bool started_by_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(variable) != nullptr) return true;
  return is_one_of_many_slurm_tasks();
}

}  // namespace

Runtime::Runtime(int& argc, char**& argv) {
  if (!started_by_launcher()) return;
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_FUNNELED) fail("this MPI library was built without threads; MPI_THREAD_FUNNELED is needed");
}

Runtime::~Runtime() {
  if (!mpi_is_running()) return;
  // MPI_Finalize would wait for ranks that in turn wait for this one.
  if (std::uncaught_exceptions() > 0) end_all_ranks(static_cast<int>(ExitCode::failed));
  MPI_Finalize();
}

bool mpi_is_running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

void end_all_ranks(int exit_code) {
  int rank = 0, size = 1, length = 0;
  char host[MPI_MAX_PROCESSOR_NAME] = "unknown";
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Get_processor_name(host, &length);
  std::fprintf(stderr, "ldmtune: rank %d of %d on host %s failed; ending all ranks with exit code %d\n", rank, size,
               host, exit_code);
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

std::unique_ptr<Communicator> world() { return world(false); }

std::unique_ptr<Communicator> world(bool device_buffers) {
  if (!mpi_is_running()) return self();
  auto host = mpi_world();
#ifdef LDMTUNE_HAVE_NCCL
  if (device_buffers && host->size() > 1) return nccl_world(std::move(host));
#else
  static_cast<void>(device_buffers);
#endif
  return host;
}

}  // namespace ldmtune::comm
