#pragma once
// How ranks exchange messages: what comm::world() chooses from.

#include <cstdint>
#include <memory>

#include "comm/communicator.h"

namespace ldmtune::comm {

/// MPI's counts are ints; longer vectors go in pieces of this many elements.
inline constexpr std::int64_t kMaxMessageElements = std::int64_t{1} << 30;

/// True between MPI_Init and MPI_Finalize.
bool mpi_is_running();

/// MPI_Abort after a line on standard error that names this rank and its host. MPI is running.
[[noreturn]] void end_all_ranks(int exit_code);

/// All MPI ranks, for buffers in host memory. Tests pass a small `max_message_elements`.
std::unique_ptr<Communicator> mpi_world(std::int64_t max_message_elements = kMaxMessageElements);

/// Device buffers by NCCL on the CUDA device that is current, everything else by `host`. Only where built with NCCL.
std::unique_ptr<Communicator> nccl_world(std::unique_ptr<Communicator> host);

}  // namespace ldmtune::comm
