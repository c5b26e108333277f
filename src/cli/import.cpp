// ldmtune import: another program's file -> what ldmtune trains on from.

#include <iostream>

#include "cli/commands.h"
#include "cli/convert.h"
#include "cli/export_base.h"
#include "cli/operand.h"
#include "core/log.h"
#include "pipeline/collective.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: ldmtune import FILE|FOLDER --output PATH [--base BASE]\n\n"
    "The reverse of export: makes of another program's file what ldmtune trains on from, and prints the options of a\n"
    "job that does. Says by itself what it is given:\n\n"
    "  a hypernetwork (.pt, .safetensors)               -> PATH .pt or .safetensors   for hypernetwork.init_from\n"
    "  an embedding (A1111, diffusers, kohya, OneTrainer) -> PATH .pt or .safetensors   for "
    "textual_inversion.initial_embedding\n"
    "  a LoRA (diffusers, PEFT, kohya), with --base     -> PATH .safetensors          for lora.init_from\n"
    "  a whole model (LDM file or diffusers folder)     -> PATH, a folder             for base\n\n"
    "  ldmtune import style.safetensors --base models/stable-diffusion-v1-5 --output style-peft.safetensors\n"
    "  ldmtune import v1-5-pruned.ckpt --base.tokenizer models/stable-diffusion-v1-5 --output models/my-base\n\n"
    "Options [default]:\n";

void declare(OptionTable& t, Conversion& c) {
  t.add("output", c.output, "", "File or folder to write; one that is there is not written over");
  t.add("base", c.base, "", "LoRAs: a base of their kind, folder or file, which names their layers");
  t.add("variant", c.variant, "", "Weight files' variant of a folder, e.g. fp16");
  declare(t, c.base_options);
  t.add("dtype", c.dtype, "", "Whole models: type of the weights, fp32 | fp16 | bf16 (empty: as stored)");
  t.add("name", c.name, "", "Name of a hypernetwork or LoRA (empty: its own)");
  t.add("token", c.token, "", "Of several words the one to take; of one, the word that is to stand for it");
}

/// ldmtune's own form of each kind.
std::string own_format(FileKind kind, const std::filesystem::path& output) {
  if (kind == FileKind::hypernetwork) return "a1111";
  if (kind == FileKind::embedding && output.extension() == ".pt") return "a1111";
  return "diffusers";
}

/// As a job file's beginning.
std::string job_text(const adapt::JobOptions& options) {
  std::string text, section;
  for (const auto& [name, value] : options) {
    const std::size_t dot = name.find('.');
    const std::string own = dot == std::string::npos ? "" : name.substr(0, dot);
    if (own != section) text += "[" + own + "]\n";
    section = own;
    text += name.substr(dot == std::string::npos ? 0 : dot + 1) + " = " + quote_value(value) + "\n";
  }
  return text;
}

}  // namespace

ExitCode run_import(const Arguments& arguments, comm::Communicator& comm) {
  Conversion conversion;
  OptionTable table;
  declare(table, conversion);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  table.set(line.settings);
  conversion.given = only_operand(line, "import", "one FILE or FOLDER");
  check_output(conversion.output);
  pipeline::run_together(comm, [&] {
    if (comm.rank() != 0) return;
    const FileKind kind = is_base_folder(conversion.given) ? FileKind::base : kind_of(conversion.given);
    conversion.format = own_format(kind, conversion.output);
    const adapt::JobOptions options = convert(kind, conversion);
    LDMTUNE_LOG(info) << conversion.given.string() << " is " << name_of(kind) << "; wrote "
                      << conversion.output.string() << ". A job that trains on from it says:";
    std::cout << job_text(options) << std::flush;
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
