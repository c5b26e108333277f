// ldmtune prepare: images and captions -> dataset folder.

#include <iostream>

#include "cli/commands.h"
#include "core/config.h"
#include "core/log.h"
#include "pipeline/collective.h"
#include "pipeline/encode.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: [mpirun -n RANKS] ldmtune prepare --base FOLDER --images FOLDER --output DATASET [--option VALUE ...]\n\n"
    "Resizes and crops each image to a square, encodes it with the base model's VAE, and writes a dataset folder that\n"
    "ldmtune train reads: index.json, captions.jsonl and HDF5 parts of latents. Ranks share the images; the result "
    "has\n"
    "the same bytes for any number of them. Captions come from metadata.jsonl in the image folder, one line an "
    "image:\n\n"
    "  {\"file_name\": \"cat.png\", \"text\": \"a cat\", \"split\": \"validation\", \"group\": \"cats\"}   (split and "
    "group are optional)\n\n"
    "or from cat.txt or cat.caption beside cat.png, or from the file name. Some images are held out for validation "
    "and\n"
    "test: those that metadata names, else a fixed choice by the images' hashes. Nothing is left behind on an "
    "error.\n\n"
    "  ldmtune prepare --base datasets/emoji-base --images datasets/emoji/pencil --output pencil.latents\n"
    "  mpirun -n 4 ldmtune prepare --base sd15 --images photos --output photos.latents --resolution 512 --random_flip\n"
    "  ldmtune prepare --captions_only --images photos --output photos.latents      (mended a typo)\n\nOptions "
    "[default]:\n";

}  // namespace

ExitCode run_prepare(const Arguments& arguments, comm::Communicator& comm) {
  PrepareConfig config;
  OptionTable table;
  declare(table, config);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  if (!line.positional.empty()) {
    fail_input("prepare: unexpected argument '", line.positional.front(), "'; options are given as --option VALUE");
  }
  table.set(line.settings);
  if (config.captions_only) {
    pipeline::run_together(comm, [&] {
      if (comm.rank() == 0) pipeline::update_captions(config);
    });
    return ExitCode::done;
  }
  const pipeline::PrepareResult result = pipeline::prepare_dataset(config, comm);
  if (comm.rank() == 0) {
    LDMTUNE_LOG(info) << config.output.string() << ": " << result.images << " images, " << result.samples
                      << " samples, " << (result.skipped > 0 ? cat(result.skipped, " skipped, ") : "")
                      << format_number(std::round(static_cast<double>(result.images) / result.seconds * 10) / 10)
                      << " images/s over " << comm.size() << (comm.size() == 1 ? " rank" : " ranks");
  }
  return ExitCode::done;
}

}  // namespace ldmtune::cli
