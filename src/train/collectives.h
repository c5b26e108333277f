#pragma once
// Flat tensors and the communicator: where device buffers cannot be sent as they are, they pass through the host.

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "optim/block_sums.h"

namespace ldmtune::train {

/// Canonical-tree sum of `flat` over ranks, in place: afterwards this rank's owned slice holds the sum.
void reduce_scatter(comm::Communicator& comm, at::Tensor& flat);
/// Every rank's owned slice of `flat` to all ranks, in place.
void all_gather(comm::Communicator& comm, at::Tensor& flat);
/// Values of all ranks in the order of their owned slices.
std::vector<double> all_gather_by_slice(comm::Communicator& comm, const std::vector<double>& values);
/// Block sums of this rank's slice -> their canonical sum over all ranks; the communicator must outlive it.
optim::GlobalSum global_sum(comm::Communicator& comm);
/// Doubles as bytes and back.
std::string to_bytes(const std::vector<double>& values);
std::vector<double> from_bytes(const std::string& bytes);

}  // namespace ldmtune::train
