#pragma once
// Work that every rank does a share of, and that ends the same way on every rank: an error on one must neither leave
// the others waiting nor keep rank 0 from removing what was written so far.

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace ldmtune::pipeline {

/// What `work` gave, or the error that it threw, as bytes for the other ranks.
std::string outcome_of(const std::function<std::string()>& work);
/// What all ranks' outcomes, in rank order, gave. Throws the error of the lowest rank that has one (InputError stays
/// InputError), with the rank's number where there are several.
std::vector<std::string> results_of(std::vector<std::string> outcomes);

/// Runs `work` on this rank and returns every rank's bytes in rank order. If it threw on any rank, all ranks throw, as
/// results_of does. `work` must hold no collectives: for work that does, see agreeing_communicator.h.
std::vector<std::string> gather_together(comm::Communicator& comm, const std::function<std::string()>& work);

/// The same for work that gives nothing back.
void run_together(comm::Communicator& comm, const std::function<void()>& work);

/// Runs `work` on rank 0 alone; all ranks get its bytes, or throw its error.
std::string root_gives(comm::Communicator& comm, const std::function<std::string()>& work);

}  // namespace ldmtune::pipeline
