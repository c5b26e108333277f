// ldmtune export: a checkpoint -> another program's file.

#include <ATen/core/grad_mode.h>

#include <iostream>

#include "adapt/hypernetwork.h"
#include "cli/commands.h"
#include "cli/convert.h"
#include "cli/export_base.h"
#include "cli/export_embedding.h"
#include "cli/export_lora.h"
#include "cli/export_model.h"
#include "cli/operand.h"
#include "core/config.h"
#include "core/log.h"
#include "pipeline/collective.h"
#include "store/safetensors.h"
#include "train/checkpoint.h"
#include "train/run.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: ldmtune export CHECKPOINT|FILE --format FORMAT --output PATH\n\n"
    "Writes what a checkpoint trained, or another file, as a file for another program (import is the reverse).\n"
    "CHECKPOINT is a folder such as RUN/checkpoints/step-00000500, or a run folder (its newest checkpoint is taken);\n"
    "FILE a hypernetwork, embedding, LoRA or base.\n\n"
    "  ldmtune export runs/pencil/checkpoints/step-00000400 --format a1111 --output pencil.pt\n"
    "  ldmtune export runs/zorp --format diffusers --output learned_embeds.safetensors\n"
    "  ldmtune export style.safetensors --format kohya --base models/my-base --output style-kohya.safetensors\n"
    "  ldmtune export runs/subject --format diffusers --output subject-model\n"
    "  ldmtune export runs/subject --format ldm --dtype fp16 --output subject.safetensors\n"
    "  ldmtune export models/my-base --format ldm --dtype fp16 --output my-base.safetensors\n"
    "  ldmtune export my-base.safetensors --format diffusers --base.tokenizer models/my-base --output my-base\n\n"
    "Options [default]:\n";

void declare(OptionTable& t, Conversion& c) {
  c.format = "a1111";
  t.add("format", c.format, "",
        "Hypernetworks: a1111, a .pt for AUTOMATIC1111's web UI and for ComfyUI, or a .safetensors. Embeddings: a1111 "
        "(.pt), diffusers (.safetensors) or kohya (.pt, .safetensors). LoRAs: diffusers or kohya (.safetensors). Whole "
        "models: diffusers (a folder) or ldm (one .safetensors)");
  t.add("output", c.output, "", "File or folder to write; one that is there is not written over");
  t.add("name", c.name, "", "Name of a hypernetwork or LoRA that the web UI shows (empty: the one trained under)");
  t.add("inference", c.inference, "",
        "Hypernetworks: leave dropout out, which ComfyUI would keep active; layers are numbered anew");
  t.add("base", c.base, "",
        "Dreambooth: where the base lies that was trained on (empty: where it lay then). LoRA files: a base of their "
        "kind, which names their layers");
  t.add("variant", c.variant, "", "Weight files' variant of a base's folder, e.g. fp16");
  t.add("dtype", c.dtype, "",
        "Whole models: type of the weights, fp32 | fp16 | bf16 (empty: a base's as stored, after dreambooth fp32)");
  declare(t, c.base_options);
  t.add("token", c.token, "",
        "Of several words of a textual inversion, the one to write (empty: all); of a file's only one, its new name");
}

std::filesystem::path checkpoint_in(const std::filesystem::path& given) {
  if (!std::filesystem::is_directory(given)) fail_input(given.string(), ": expected a checkpoint folder, found none");
  if (!std::filesystem::exists(given / "checkpoints")) return given;
  const std::filesystem::path latest = train::latest_checkpoint(given);
  if (latest.empty()) fail_input(given.string(), ": this run has no complete checkpoint yet");
  return latest;
}

/// Context widths for which the checkpoint has networks: "768.k.linear.0.weight" -> 768.
std::set<std::int64_t> widths_of(const store::TensorMap& parameters, const std::filesystem::path& file) {
  std::set<std::int64_t> widths;
  for (const auto& [name, tensor] : parameters) {
    std::size_t digits = 0;
    while (digits < name.size() && digits < 9 && name[digits] >= '0' && name[digits] <= '9') ++digits;
    if (digits == 0 || digits == name.size() || name[digits] != '.') {
      fail_input(file.string(), ": expected a hypernetwork's parameters (such as 768.k.linear.0.weight), found ", name);
    }
    widths.insert(std::stoll(name.substr(0, digits)));
  }
  if (widths.empty()) fail_input(file.string(), ": holds no parameters");
  return widths;
}

adapt::HypernetworkSpec spec_of(const train::CheckpointState& state, const std::set<std::int64_t>& widths,
                                const std::filesystem::path& checkpoint) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const auto& [name, text] : state.config) {
    if (table.contains(name)) table.set({name, text, (checkpoint / "state.json").string()});
  }
  if (config.method != "hypernetwork") {
    fail_input(checkpoint.string(), ": expected a hypernetwork's checkpoint, its method is ", config.method);
  }
  return adapt::HypernetworkSpec::from_config(config.hypernetwork, widths);
}

void export_hypernetwork(const train::CheckpointState& state, const store::TensorMap& parameters,
                         const std::filesystem::path& checkpoint, const Conversion& options) {
  const std::filesystem::path file = checkpoint / "parameters.safetensors";
  check_hypernetwork_output(options.format, options.output);
  const adapt::Hypernetwork network(spec_of(state, widths_of(parameters, file), checkpoint));
  const optim::Arena arena(network.parameters());
  const store::TensorMap views = arena.parameter_views();
  for (const auto& [name, view] : views) {
    const auto found = parameters.find(name);
    if (found == parameters.end() || found->second.sizes() != view.sizes()) {
      fail_input(file.string(), ": ", name, " of shape ", view.sizes(),
                 " is missing: state.json and parameters disagree");
    }
    view.copy_(found->second);
  }
  if (views.size() != parameters.size())
    fail_input(file.string(), ": holds parameters that state.json does not describe");
  network.export_file(arena, options.output,
                      {options.name.empty() ? state.adapter_name : options.name, state.step, state.base_sha256,
                       state.base_name, options.inference});
}

void export_checkpoint(const std::filesystem::path& checkpoint, const Conversion& options) {
  const at::NoGradGuard no_grad;
  const train::CheckpointState state = train::read_checkpoint_state(checkpoint);
  // With optim.use_ema the average is what was measured.
  const bool averaged = std::filesystem::exists(checkpoint / "ema.safetensors");
  const store::TensorMap parameters =
      store::read_safetensors(checkpoint / (averaged ? "ema.safetensors" : "parameters.safetensors")).tensors;
  if (state.config.at("method") == "lora") {
    export_lora(state, parameters, checkpoint, options.format, options.name, options.output);
  } else if (state.config.at("method") == "textual_inversion") {
    export_embeddings(state, parameters, checkpoint, options.format, options.token, options.output);
  } else if (state.config.at("method") == "dreambooth") {
    export_model(state, parameters, checkpoint, {options.base, options.base_options}, options.format, options.dtype,
                 options.output);
  } else {
    export_hypernetwork(state, parameters, checkpoint, options);
  }
  LDMTUNE_LOG(info) << "wrote " << options.output.string() << " (step " << state.step << ")";
}

}  // namespace

ExitCode run_export(const Arguments& arguments, comm::Communicator& comm) {
  Conversion options;
  OptionTable table;
  declare(table, options);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  table.set(line.settings);
  options.given = only_operand(line, "export", "one CHECKPOINT or FILE");
  check_output(options.output);
  pipeline::run_together(comm, [&] {
    if (comm.rank() != 0) return;
    if (is_base_folder(options.given) || std::filesystem::is_regular_file(options.given)) {
      convert(is_base_folder(options.given) ? FileKind::base : kind_of(options.given), options);
      LDMTUNE_LOG(info) << "wrote " << options.output.string();
    } else {
      export_checkpoint(checkpoint_in(options.given), options);
    }
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
