// ldmtune sweep: trials over lists and grids of any options.

#include <charconv>
#include <cstdio>
#include <functional>
#include <iostream>
#include <optional>
#include <vector>

#include "cli/commands.h"
#include "core/config.h"
#include "core/log.h"
#include "core/options.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "sweep/best.h"
#include "sweep/grid.h"
#include "sweep/halving.h"
#include "sweep/pack_width.h"
#include "sweep/packs.h"
#include "sweep/pictures.h"
#include "sweep/plan.h"
#include "sweep/results.h"
#include "sweep/strengths.h"
#include "sweep/trials.h"
#include "train/pack.h"
#include "train/run.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kUsage =
    R"(ldmtune sweep --config FILE plan | run | trial N | pack N | collect | best   [--pack K] [--ranks N] [--section.option value ...]

Trains one trial for every combination of options that hold alternatives. The config file is a `train` file in which any
option may hold several values separated by |, and a [sweep] section:

  [hypernetwork]
  layer_structure = 1,2,1 | 1,2,4,2,1        two trials
  layer_norm = false | true                  times two
  [sweep]
  output = runs/structures
  seeds = 0,1,2                              times three replicates

  plan       print the trials, their trainable parameters, steps, estimated memory and time; nothing runs.
             --ranks N gives the memory of each of N ranks, and refuses (exit code 2) where a trial cannot train on
             them, naming the numbers that would do
  run        train all trials, draw pictures of held-out captions, write results.csv. Run it again to go on after an
             interruption (exit code 85): finished trials are not run again
  trial N    train trial N alone (one element of a Slurm array)
  pack N     with --pack K: train pack N of those that `plan --pack K` lists
  collect    draw what is missing and write results.csv
  best       copy the winner by held-out (validation) loss to best.pt (or best.safetensors), with a picture and a card, best.md

--pack K trains K trials at a time in one process, on one copy of the frozen base and in one forward: faster where the
base is small or the micro-batch narrow. A trial that ends leaves its place to the next one. Its bits depend on K, not on
its pack-mates. --pack auto takes as many, up to 8, as fit into the memory that is free here when the sweep begins, which
a machine's ranks share; a GPU's own where one is used. Run again, it takes the K that the sweep was begun with. `plan`
says how much a pack takes.

Under mpirun or srun all ranks train each trial together. A value that holds | itself is quoted; sample.prompts uses |
for its own list and cannot vary.

An alternative may have a condition of its own, so that each method has its own rates:
  method = lora | dreambooth
  [optim]
  learning_rate = (1e-3 | 3e-3) if method = lora | 1e-5 if method = dreambooth

[sweep] may also say: zip = a, b (options that change together); conditions = a if b = true | c if d = x or y (elsewhere
a and c stand at their defaults); draws = 16 with options given as log_uniform(1e-4, 1e-2), uniform(a, b), integer(a, b)
or choice(a; b); subset_seeds = 0,1,2 (replicates over draws of data.subset; replicates = zipped pairs them with seeds).

Successive halving, off by default: halving_factor = 3 with halving_min_steps = 100 trains all trials to update 100, the
best third by held-out loss on to 300, the best third of these to 900, and so on; the last ones train to their end, with
the same bits as without halving. Replicates of a setting go on or end together, by their mean; a failed one loses.
`pack N --pack K --rung R` trains pack N of rung R (one element of a Slurm array).

)";

struct Request {
  std::string action;
  std::optional<std::int64_t> number;  ///< of `trial N` or `pack N`
  std::string pack;                    ///< --pack: empty, a number or auto
  std::optional<std::int64_t> rung;    ///< --rung
  std::optional<int> ranks;            ///< --ranks, of plan
  std::vector<OptionSetting> settings;
};

std::int64_t listed_number(const std::string& text) {
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 0) {
    fail_input("sweep: expected a number as `sweep plan` lists it, found '", text, "'");
  }
  return number;
}

int rank_count(const std::string& text) {
  int count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end != text.data() + text.size() || count < 1) {
    fail_input("option ranks: expected a number of MPI ranks from 1 on, found '", text, "'");
  }
  return count;
}

Request parse_request(const Arguments& arguments) {
  const CommandLine line = parse_command_line(arguments);
  Request request;
  std::vector<OptionSetting> overrides;
  for (const OptionSetting& setting : line.settings) {
    if (setting.name == "config") {
      request.settings = read_config_file(setting.text);
    } else if (setting.name == "pack") {
      request.pack = setting.text;
    } else if (setting.name == "rung") {
      request.rung = listed_number(setting.text);
    } else if (setting.name == "ranks") {
      request.ranks = rank_count(setting.text);
    } else {
      overrides.push_back(setting);
    }
  }
  request.settings.insert(request.settings.end(), overrides.begin(), overrides.end());
  if (line.positional.empty())
    fail_input("sweep: expected plan, run, trial N, pack N, collect or best; see ldmtune sweep --help");
  request.action = line.positional[0];
  const bool takes_number = request.action == "trial" || request.action == "pack";
  if (takes_number && line.positional.size() < 2)
    fail_input("sweep ", request.action, ": expected a number as `sweep plan` lists it");
  if (takes_number) request.number = listed_number(line.positional[1]);
  if (line.positional.size() > (takes_number ? 2u : 1u)) {
    fail_input("sweep ", request.action, ": unexpected argument '", line.positional.back(), "'");
  }
  if (request.ranks && request.action != "plan") {
    fail_input("option ranks: of `sweep plan`; `sweep ", request.action,
               "` trains on the ranks that it is started with");
  }
  return request;
}

/// Pictures, the winners' strengths and results.csv of what is done so far.
ExitCode collect(const sweep::Grid& grid, comm::Communicator& comm) {
  ExitCode code = sweep::draw_pictures(grid, sweep::read_results(grid), comm);
  if (code == ExitCode::done) code = sweep::measure_winners(grid, sweep::read_results(grid), comm);
  pipeline::root_gives(comm, [&] {
    const auto rows = sweep::read_results(grid);
    sweep::write_plan(grid);
    sweep::write_results(grid, rows);
    const std::string strengths = sweep::strengths_table_csv(grid, rows);
    if (!strengths.empty()) store::write_text(grid.sweep.output / "strengths.csv", strengths);
    std::cout << sweep::results_table(grid, rows) << "\n"
              << (grid.sweep.output / "results.csv").string() << "\n"
              << std::flush;
    return std::string();
  });
  return code;
}

/// Trains the trials of `part`, or its pack `only`, to its rung.
ExitCode train_rung(const sweep::Grid& part, const train::Milestones& milestones, std::size_t width,
                    comm::Communicator& comm, std::optional<std::int64_t> only,
                    const std::function<void()>& after_each) {
  if (width == 0) {
    const sweep::Trainer alone = [&](const TrainConfig& config, comm::Communicator& ranks) {
      return train::run_pack({config}, 1, ranks, nullptr, milestones);
    };
    return sweep::run_trials(part, comm, alone, std::nullopt, after_each);
  }
  const sweep::PackTrainer packed = [&](const std::vector<TrainConfig>& configs, std::size_t at_a_time,
                                        comm::Communicator& ranks, const train::OnTrialEnd& on_end) {
    return train::run_pack(configs, at_a_time, ranks, on_end, milestones);
  };
  return sweep::run_packs(part, width, comm, packed, only, after_each);
}

/// With successive halving: all rungs, or one pack of one rung.
ExitCode train_rungs(const sweep::Grid& grid, const Request& request, std::size_t width, comm::Communicator& comm,
                     const std::function<void()>& after_each) {
  if (!request.number) {
    const auto one_rung = [&](const sweep::Grid& part, const train::Milestones& milestones) {
      return train_rung(part, milestones, width, comm, std::nullopt, after_each);
    };
    return sweep::run_rungs(grid, comm, one_rung);
  }
  if (!request.rung || width == 0) {
    fail_input("sweep ", request.action, ": with sweep.halving_factor a job trains a pack of a rung; give ",
               "`pack N --pack K --rung R` (K may be 1)");
  }
  const auto rung = static_cast<std::size_t>(*request.rung);
  const sweep::Grid part = sweep::rung_grid(grid, rung, comm);
  ExitCode code = ExitCode::done;  // where the rung is judged already, or fewer trials came this far
  if (*request.number < static_cast<std::int64_t>(sweep::plan_packs(part, width).size())) {
    code = train_rung(part, sweep::milestones_of(grid, rung), width, comm, request.number, after_each);
  }
  // slurm/element.sbatch looks for this line: a launcher may say 0 though its node died.
  if (code != ExitCode::interrupted) {
    LDMTUNE_LOG(info) << "rung " << rung << ", pack " << *request.number << ": nothing is left to do";
  }
  return code;
}

/// Trains what the request names: everything, one trial, or one pack.
ExitCode train_trials(const sweep::Grid& grid, const Request& request, comm::Communicator& comm) {
  const bool one_trial = request.action == "trial";
  if (one_trial && !request.pack.empty())
    fail_input("sweep trial: trains alone; leave --pack out, or run `sweep pack N`");
  if (request.action == "pack" && request.pack.empty()) fail_input("sweep pack: give the width too, as --pack K");
  const std::optional<std::int64_t> only_trial = one_trial ? request.number : std::nullopt;
  sweep::check_trials(sweep::chosen_trials(grid, only_trial), comm.size());
  const std::size_t width = request.pack.empty() ? 0 : sweep::pack_width(request.pack, grid, comm.size(), comm);
  pipeline::root_gives(comm, [&] {
    sweep::write_plan(grid, width > 0 ? std::optional(width) : std::nullopt);
    return std::string();
  });
  const auto after_each = [&] {
    if (!request.number) sweep::write_results(grid, sweep::read_results(grid));
  };
  if (grid.sweep.halving_factor != 0) return train_rungs(grid, request, width, comm, after_each);
  if (request.rung) fail_input("option rung: there are no rungs; sweep.halving_factor is 0");
  if (width == 0) return sweep::run_trials(grid, comm, train::run, only_trial, after_each);
  const auto trainer = [](const std::vector<TrainConfig>& configs, std::size_t at_a_time, comm::Communicator& ranks,
                          const train::OnTrialEnd& on_end) {
    return train::run_pack(configs, at_a_time, ranks, on_end);
  };
  return sweep::run_packs(grid, width, comm, trainer, request.number, after_each);
}

/// The packs that --pack makes, in the first rung, what they take, and how many the rungs have.
std::string packs_of(const sweep::Grid& grid, const std::string& pack, int ranks, comm::Communicator& comm) {
  const std::size_t width = sweep::pack_width(pack, grid, ranks, comm);
  char memory[96];
  std::snprintf(memory, sizeof memory, "\nA pack takes at most %.2f GB of memory a rank, on %d rank(s).\n",
                sweep::pack_bytes(grid, width, ranks) * 1e-9, ranks);
  const std::string packs = sweep::packs_table(grid, width) + memory;
  if (grid.sweep.halving_factor == 0) return packs;
  return packs + "\n" + sweep::rungs_table(grid, sweep::planned_tflops(grid), width);
}

ExitCode run(const sweep::Grid& grid, const Request& request, comm::Communicator& comm) {
  const ExitCode code = train_trials(grid, request, comm);
  if (request.number) return code;
  if (code == ExitCode::interrupted) {
    if (comm.rank() == 0) sweep::write_results(grid, sweep::read_results(grid));
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
  if (request.action == "run" || request.action == "trial" || request.action == "pack") return run(grid, request, comm);
  if (request.action == "plan") {
    if (request.ranks) sweep::check_ranks(grid, *request.ranks);
    const int ranks = request.ranks.value_or(comm.size());
    const std::string table =
        request.pack.empty() ? sweep::plan_table(grid, ranks) : packs_of(grid, request.pack, ranks, comm);
    if (comm.rank() == 0) std::cout << table;
  } else if (request.action == "collect") {
    return collect(grid, comm);
  } else if (request.action == "best") {
    pipeline::root_gives(comm, [&] {
      std::cout << sweep::export_best(grid, sweep::read_results(grid)).string() << "\n" << std::flush;
      return std::string();
    });
  } else {
    fail_input("sweep: expected plan, run, trial N, pack N, collect or best, found '", request.action, "'");
  }
  return ExitCode::done;
}

}  // namespace ldmtune::cli
