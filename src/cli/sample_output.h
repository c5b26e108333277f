#pragma once
// What `sample` writes: the grid, single pictures, the trace.

#include <vector>

#include "cli/sample_adapters.h"
#include "cli/sample_options.h"
#include "model/base_model.h"
#include "pipeline/generate_shared.h"

namespace ldmtune::cli {

/// `requests` and `results` stand in the order of plan.cells.
void write_sample_output(const SampleOptions& options, const SamplePlan& plan, const model::BaseModel& base,
                         const SampleAdapters& adapters, const std::vector<pipeline::SharedRequest>& requests,
                         const std::vector<pipeline::GenerateResult>& results);

}  // namespace ldmtune::cli
