// ldmtune train: options -> configuration -> run.

#include <cstdlib>
#include <iostream>
#include <vector>

#include "cli/commands.h"
#include "cli/train_plan.h"
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
    "  --config <file>\n      Config file: lines 'option = value' under [section] headings\n"
    "  --plan\n      Print what would train and the memory it takes, from headers alone, and end; nothing is written\n"
    "  --plan_ranks <ranks> [as many as there are]\n      The same for so many ranks on one machine\n";

/// What --plan and --plan_ranks ask for: 0 where it is a run, else the number of ranks to plan for.
int planned_ranks(std::vector<OptionSetting>& settings, int ranks) {
  int planned = 0;
  for (const OptionSetting& setting : settings) {
    if (setting.name == "plan") {
      if (setting.text != "true" && setting.text != "false") {
        fail_input("option plan: expected true or false, found '", setting.text, "'");
      }
      if (planned == 0 && setting.text == "true") planned = ranks;
    } else if (setting.name == "plan_ranks") {
      constexpr int kMost = 1 << 20;
      planned = static_cast<int>(std::strtol(setting.text.c_str(), nullptr, 10));
      if (planned < 1 || planned > kMost || setting.text != std::to_string(planned)) {
        fail_input("option plan_ranks: expected a number of ranks, found '", setting.text, "'");
      }
    }
  }
  std::erase_if(settings,
                [](const OptionSetting& setting) { return setting.name == "plan" || setting.name == "plan_ranks"; });
  return planned;
}

}  // namespace

ExitCode run_train(const Arguments& arguments, comm::Communicator& comm) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  CommandLine line = parse_command_line(arguments);
  if (!line.positional.empty()) {
    fail_input("train: unexpected argument '", line.positional.front(),
               "'; options are given as --section.option VALUE");
  }
  const int plan_for = planned_ranks(line.settings, comm.size());
  for (const OptionSetting& setting : line.settings) {
    if (setting.name == "config") table.set(read_config_file(setting.text));
  }
  for (const OptionSetting& setting : line.settings) {
    if (setting.name != "config") table.set(setting);
  }
  apply_method_defaults(table, config);
  if (plan_for == 0) return train::run(config, comm);
  print_train_plan(config, plan_for, comm);
  return ExitCode::done;
}

}  // namespace ldmtune::cli
