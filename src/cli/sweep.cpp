// ldmtune sweep: trials over lists and grids of any options.

#include <charconv>
#include <iostream>
#include <optional>

#include "cli/commands.h"
#include "core/config.h"
#include "core/log.h"
#include "core/options.h"
#include "pipeline/collective.h"
#include "sweep/grid.h"
#include "sweep/pictures.h"
#include "sweep/plan.h"
#include "sweep/results.h"
#include "sweep/trials.h"
#include "train/run.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kUsage =
    R"(ldmtune sweep --config FILE plan | run | trial N | collect | best   [--section.option value ...]

Trains one trial for every combination of options that hold alternatives. The config file is a `train` file in which any
option may hold several values separated by |, and a [sweep] section:

  [hypernetwork]
  layer_structure = 1,2,1 | 1,2,4,2,1        two trials
  layer_norm = false | true                  times two
  [sweep]
  output = runs/structures
  seeds = 0,1,2                              times three replicates

  plan       print the trials, their trainable parameters and steps; nothing runs
  run        train all trials, draw pictures of held-out captions, write results.csv. Run it again to go on after an
             interruption (exit code 85): finished trials are not run again
  trial N    train trial N alone (one element of a Slurm array)
  collect    draw what is missing and write results.csv
  best       copy the winner by held-out (validation) loss to best.pt, with a card in best.json

Under mpirun or srun all ranks train each trial together. A value that holds | itself is quoted; sample.prompts uses |
for its own list and cannot vary.

)";

struct Request {
  std::string action;
  std::optional<std::int64_t> trial;
  std::vector<OptionSetting> settings;
};

std::int64_t trial_number(const std::string& text) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 0) {
    fail_input("sweep trial: expected a trial's number as `sweep plan` lists it, found '", text, "'");
  }
  return number;
}

Request parse_request(const Arguments& arguments) {
  const CommandLine line = parse_command_line(arguments);
  Request request;
  std::vector<OptionSetting> overrides;
  for (const OptionSetting& setting : line.settings) {
    if (setting.name == "config") {
      request.settings = read_config_file(setting.text);
    } else {
      overrides.push_back(setting);
    }
  }
  request.settings.insert(request.settings.end(), overrides.begin(), overrides.end());
  if (line.positional.empty())
    fail_input("sweep: expected plan, run, trial N, collect or best; see ldmtune sweep --help");
  request.action = line.positional[0];
  const bool takes_number = request.action == "trial";
  if (takes_number && line.positional.size() < 2)
    fail_input("sweep trial: expected a trial's number as `sweep plan` lists it");
  if (takes_number) request.trial = trial_number(line.positional[1]);
  if (line.positional.size() > (takes_number ? 2u : 1u)) {
    fail_input("sweep ", request.action, ": unexpected argument '", line.positional.back(), "'");
  }
  return request;
}

/// Pictures and results.csv of what is done so far.
ExitCode collect(const sweep::Grid& grid, comm::Communicator& comm) {
  const ExitCode code = sweep::draw_pictures(grid, sweep::read_results(grid), comm);
  pipeline::root_gives(comm, [&] {
    const auto rows = sweep::read_results(grid);
    sweep::write_plan(grid);
    sweep::write_results(grid, rows);
    std::cout << sweep::results_table(grid, rows) << "\n"
              << (grid.sweep.output / "results.csv").string() << "\n"
              << std::flush;
    return std::string();
  });
  return code;
}

ExitCode run(const sweep::Grid& grid, std::optional<std::int64_t> only, comm::Communicator& comm) {
  sweep::check_trials(sweep::chosen_trials(grid, only), comm.size());
  pipeline::root_gives(comm, [&] {
    sweep::write_plan(grid);
    return std::string();
  });
  const auto after_each = [&] {
    if (!only) sweep::write_results(grid, sweep::read_results(grid));
  };
  const ExitCode code = sweep::run_trials(grid, comm, train::run, only, after_each);
  if (only) return code;
  if (code == ExitCode::interrupted) {
    if (comm.rank() == 0) after_each();
    return code;
  }
  return collect(grid, comm) == ExitCode::interrupted ? ExitCode::interrupted : code;
}

}  // namespace

ExitCode run_sweep(const Arguments& arguments, comm::Communicator& comm) {
  if (arguments.empty() || wants_help(arguments)) {
    sweep::SweepConfig config;
    OptionTable table;
    sweep::declare(table, config);
    if (comm.rank() == 0) std::cout << kUsage << table.help() << "\nAll options of `ldmtune train --help` too.\n";
    return arguments.empty() ? ExitCode::bad_input : ExitCode::done;
  }
  const Request request = parse_request(arguments);
  const sweep::Grid grid = sweep::expand_grid(request.settings);
  if (request.action == "run" || request.action == "trial") return run(grid, request.trial, comm);
  if (request.action == "plan") {
    const std::string table = sweep::plan_table(grid);
    if (comm.rank() == 0) std::cout << table;
  } else if (request.action == "collect") {
    return collect(grid, comm);
  } else if (request.action == "best") {
    pipeline::root_gives(comm, [&] {
      std::cout << sweep::export_best(grid, sweep::read_results(grid)).string() << "\n" << std::flush;
      return std::string();
    });
  } else {
    fail_input("sweep: expected plan, run, trial N, collect or best, found '", request.action, "'");
  }
  return ExitCode::done;
}

}  // namespace ldmtune::cli
