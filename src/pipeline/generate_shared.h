#pragma once
// Many images, the ranks sharing them.

#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "pipeline/generate.h"

namespace ldmtune::pipeline {

/// One image to make, with its hooks (null: the untouched base).
struct SharedRequest {
  GenerateRequest request;
  HooksFactory hooks;
};

/// Generates all requests, which have one size in common. Rank 0 gets every result in order, the others none. An
/// image's bits do not depend on the number of ranks. `done(n)` is called on rank 0 after each round, with the images
/// so far. Errors: of any rank, on all ranks.
std::vector<GenerateResult> generate_shared(const model::BaseModel& base, PromptEncoder& prompts,
                                            const std::vector<SharedRequest>& requests, comm::Communicator& comm,
                                            const std::function<void(std::size_t)>& done = nullptr);

}  // namespace ldmtune::pipeline
