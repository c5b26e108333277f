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
  if (std::uncaught_exceptions() > 0) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::failed));
  MPI_Finalize();
}

bool mpi_is_running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
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
