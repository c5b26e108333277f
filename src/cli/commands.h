#pragma once
// One function and one file per subcommand. They throw Error; main catches once.

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"

namespace ldmtune::cli {

using Arguments = std::vector<std::string>;  ///< what follows the subcommand's name

ExitCode run_prepare(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_train(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_sample(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_sweep(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_evaluate(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_export(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_import(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_bench(const Arguments& arguments, comm::Communicator& comm);
ExitCode run_inspect(const Arguments& arguments, comm::Communicator& comm);

/// True if --help or -h is among the arguments.
bool wants_help(const Arguments& arguments);

}  // namespace ldmtune::cli
