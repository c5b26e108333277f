// ldmtune inspect: what a file or folder is, and whether its checksums hold.

#include <iostream>

#include "cli/commands.h"
#include "cli/inspect_file.h"
#include "cli/inspect_folder.h"
#include "core/options.h"
#include "pipeline/collective.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: ldmtune inspect FILE|FOLDER ...\n\n"
    "Says what each is, shows what it holds, and checks it: exit code 2 if anything is damaged. Knows safetensors,\n"
    "torch files (AUTOMATIC1111 hypernetworks in detail; reading one never executes anything), images, HDF5 parts,\n"
    "dataset folders, base models, run folders and checkpoints.\n\n"
    "  ldmtune inspect best.pt\n"
    "  ldmtune inspect pencil.latents runs/pencil\n";

std::string describe(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return describe_folder(path);
  if (!std::filesystem::exists(path)) fail_input(path.string(), ": no such file or folder");
  if (!std::filesystem::is_regular_file(path)) fail_input(path.string(), ": neither a regular file nor a folder");
  return describe_file(path);
}

}  // namespace

ExitCode run_inspect(const Arguments& arguments, comm::Communicator& comm) {
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction;
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  OptionTable().set(line.settings);
  if (line.positional.empty()) fail_input("inspect: expected a FILE or FOLDER; see ldmtune inspect --help");
  pipeline::run_together(comm, [&] {
    if (comm.rank() != 0) return;
    for (const std::string& path : line.positional) std::cout << path << ": " << describe(path) << std::flush;
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
