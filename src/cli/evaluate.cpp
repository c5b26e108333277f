// ldmtune evaluate: a finished training at strengths between the untouched base and its end.

#include <cstdio>
#include <iostream>

#include "cli/commands.h"
#include "cli/operand.h"
#include "core/config.h"
#include "core/log.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "sweep/plan.h"
#include "train/strengths.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: [mpirun -n RANKS] ldmtune evaluate RUN [--strengths LIST] [--output FILE] [--section.option VALUE ...]\n\n"
    "Measures what a run (its newest checkpoint, or a checkpoint folder) does at strengths from 0, the untouched base, to\n"
    "1, as trained: the loss on its held-out, training, test and adjacent images at the noise of its own validation, and\n"
    "how far adjacent predictions drift from the base's. Hypernetworks and LoRAs are scaled, dreambooth's weights and a new\n"
    "word's vectors are taken between where they began and where they ended.\n\n"
    "  ldmtune evaluate runs/pencil --strengths 0,0.5,1\n"
    "  ldmtune evaluate runs/pencil --validation.adjacent datasets/photos.latents --validation.adjacent_trigger sks\n\n"
    "Any option of `ldmtune train` replaces the run's (base, data, validation.*).\n\nOptions [default]:\n";

struct EvaluateOptions {
  std::string strengths = "0,0.25,0.5,0.75,1";
  std::filesystem::path output;
};

void declare(OptionTable& t, EvaluateOptions& o) {
  t.add("strengths", o.strengths, "", "Strengths to measure at, separated by commas; below 0 and above 1 too");
  t.add("output", o.output, "", "CSV with a row an image and strength (empty: strengths.csv in the run's folder)");
}

std::string fixed(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.5f", value);
  return text;
}

/// One line a strength.
std::string table_of(const std::vector<train::StrengthLoss>& losses) {
  std::vector<std::vector<std::string>> rows{{"strength"}};
  double strength = 0;
  for (const train::StrengthLoss& set : losses) {
    if (rows.size() == 1 || set.strength != strength) rows.push_back({format_number(strength = set.strength)});
    if (rows.size() == 2) rows.front().push_back(set.kind);
    rows.back().push_back(fixed(set.mean));
    if (set.drift_by_image.empty()) continue;
    if (rows.size() == 2) rows.front().push_back("drift");
    rows.back().push_back(fixed(set.drift));
  }
  return sweep::format_table(rows);
}

}  // namespace

ExitCode run_evaluate(const Arguments& arguments, comm::Communicator& comm) {
  EvaluateOptions options;
  OptionTable table;
  declare(table, options);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  std::vector<OptionSetting> overrides;
  for (const OptionSetting& setting : line.settings) {
    if (table.contains(setting.name)) {
      table.set(setting);
    } else {
      overrides.push_back(setting);
    }
  }
  const std::filesystem::path run = only_operand(line, "evaluate", "one RUN");
  const std::vector<double> strengths = train::parse_strengths(options.strengths, "strengths");
  const auto losses = train::measure_strengths(run, strengths, overrides, comm);
  if (losses.empty()) return ExitCode::interrupted;
  const std::filesystem::path output = options.output.empty() ? run / "strengths.csv" : options.output;
  pipeline::root_gives(comm, [&] {
    store::write_text(output, train::strengths_csv(losses));
    std::cout << table_of(losses) << "\n" << output.string() << "\n" << std::flush;
    return std::string();
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
