// ldmtune train: options -> configuration -> run.

#include <iostream>

#include "cli/commands.h"
#include "core/config.h"
#include "train/run.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: [mpirun -n RANKS] ldmtune train --config FILE [--section.option VALUE ...]\n\n"
    "Trains on a dataset folder (see ldmtune prepare) and writes a run folder: checkpoints, metrics.csv, "
    "validation.csv,\n"
    "sample grids, result.json. The same configuration gives the same weights on any number of ranks. Options on the\n"
    "command line override those of the file; all may stand in either. Interrupted (Ctrl-C, SIGTERM, SIGUSR2,\n"
    "train.stop_after) it writes a checkpoint and exits with 85; --train.resume_from_checkpoint latest goes on.\n\n"
    "  ldmtune train --config jobs/hypernetwork-emoji.cfg --hypernetwork.layer_structure 1,2,4,2,1\n\nOptions "
    "[default]:\n"
    "  --config <file>\n      Config file: lines 'option = value' under [section] headings\n";

}  // namespace

ExitCode run_train(const Arguments& arguments, comm::Communicator& comm) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  if (!line.positional.empty()) {
    fail_input("train: unexpected argument '", line.positional.front(),
               "'; options are given as --section.option VALUE");
  }
  for (const OptionSetting& setting : line.settings) {
    if (setting.name == "config") table.set(read_config_file(setting.text));
  }
  for (const OptionSetting& setting : line.settings) {
    if (setting.name != "config") table.set(setting);
  }
  apply_method_defaults(table, config);
  return train::run(config, comm);
}

}  // namespace ldmtune::cli
