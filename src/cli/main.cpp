// ldmtune: parses the subcommand, dispatches, catches once.

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <thread>

#include "cli/commands.h"
#include "core/log.h"

namespace ldmtune::cli {
namespace {

struct Command {
  ExitCode (*run)(const Arguments&, comm::Communicator&);
  const char* summary;
};

const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> table{
      {"prepare", {run_prepare, "encode images and captions into a dataset folder of HDF5 latents"}},
      {"train", {run_train, "train on a dataset folder, alone or under mpirun / srun"}},
      {"sample", {run_sample, "draw pictures from prompts, with a hypernetwork if given"}},
      {"sweep", {run_sweep, "train every combination that a sweep file names: plan, run, trial N, collect, best"}},
      {"bench", {run_bench, "time training steps: steps/s, samples/s, share of the machine's measured peak, memory"}},
      {"evaluate", {run_evaluate, "measure a run at strengths from 0 to 1: fit against forgetting"}},
      {"export", {run_export, "write a checkpoint or file in another program's format"}},
      {"import", {run_import, "turn another program's file into what ldmtune trains on from"}},
      {"inspect", {run_inspect, "say what a file or folder is and whether its checksums hold"}},
  };
  return table;
}

void print_usage(std::ostream& out) {
  out << "ldmtune fine-tunes latent diffusion models on clusters.\n\nUsage: ldmtune COMMAND [OPTIONS]   (ldmtune "
         "COMMAND --help explains one)\n\n";
  for (const auto& [name, command] : commands()) {
    out << "  " << name << std::string(10 - name.size(), ' ') << command.summary << '\n';
  }
  out << "\nA first run:\n"
         "  ldmtune prepare --base datasets/emoji-base --images datasets/emoji/pencil --output pencil.latents\n"
         "  mpirun -n 2 ldmtune train --config jobs/hypernetwork-emoji.cfg\n"
         "  ldmtune sample --base datasets/emoji-base --hypernetwork best.pt --prompt \"rocket, pencil\" --output "
         "rocket.png\n\n"
         "Exit codes: 0 done, 1 failed, 2 bad usage or input, 85 interrupted with a checkpoint written.\n";
}

void report(comm::Communicator& comm, const std::string& message) {
  // Ranks mostly fail alike: rank 0 says it once and ends the job before the others repeat it.
  if (comm.rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  LDMTUNE_LOG(error) << "ldmtune: error" << (comm.size() > 1 ? cat(" on rank ", comm.rank()) : "") << ": " << message;
}

/// One failing rank ends the job; the others must not wait for it.
ExitCode ended(comm::Communicator& comm, ExitCode code) {
  if (comm.size() > 1) comm.abort(static_cast<int>(code));
  return code;
}

ExitCode dispatch(const Command& command, const Arguments& arguments, comm::Communicator& comm) {
  try {
    return command.run(arguments, comm);
  } catch (const Error& error) {
    report(comm, error.what());
    return ended(comm, error.code());
  } catch (const c10::Error& error) {
    report(comm, error.what_without_backtrace());
    return ended(comm, ExitCode::failed);
  } catch (const std::exception& error) {
    report(comm, error.what());
    return ended(comm, ExitCode::failed);
  }
}

}  // namespace

bool wants_help(const Arguments& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--help" || argument == "-h") return true;
  }
  return false;
}

}  // namespace ldmtune::cli

int main(int argc, char** argv) {
  using namespace ldmtune;
  // Bits: MKL's kernels must not depend on where a buffer lies, nor on the number of threads.
  setenv("MKL_CBWR", "AUTO,STRICT", 0);
  if (std::getenv("OMP_NUM_THREADS") == nullptr) at::set_num_threads(1);

  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    cli::print_usage(std::cout);
    return argc > 1 ? 0 : static_cast<int>(ExitCode::bad_input);
  }
  const auto command = cli::commands().find(name);
  if (command == cli::commands().end()) {
    std::cerr << "ldmtune: error: no command '" << name << "'\n\n";
    cli::print_usage(std::cerr);
    return static_cast<int>(ExitCode::bad_input);
  }
  comm::Runtime runtime(argc, argv);
  const auto comm = comm::world();
  start_console_log(comm->rank());
  return static_cast<int>(cli::dispatch(command->second, {argv + 2, argv + argc}, *comm));
}
