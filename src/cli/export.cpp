// ldmtune export: a checkpoint -> another program's file.

#include <ATen/core/grad_mode.h>

#include <iostream>

#include "adapt/hypernetwork.h"
#include "cli/commands.h"
#include "cli/export_base.h"
#include "cli/export_embedding.h"
#include "cli/export_lora.h"
#include "cli/export_model.h"
#include "core/config.h"
#include "core/log.h"
#include "pipeline/collective.h"
#include "store/safetensors.h"
#include "train/checkpoint.h"
#include "train/run.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: ldmtune export CHECKPOINT --format FORMAT --output FILE\n\n"
    "Writes what a checkpoint trained as a file for another program. CHECKPOINT is a folder such as\n"
    "RUN/checkpoints/step-00000500, or a run folder (its newest checkpoint is taken); or a hypernetwork's file.\n\n"
    "  ldmtune export runs/pencil/checkpoints/step-00000400 --format a1111 --output pencil.pt\n"
    "  ldmtune export runs/zorp --format diffusers --output learned_embeds.safetensors\n"
    "  ldmtune export runs/subject --format diffusers --output subject-model\n"
    "  ldmtune export models/my-base --format ldm --dtype fp16 --output my-base.safetensors\n"
    "  ldmtune export my-base.safetensors --format diffusers --base.tokenizer models/my-base --output my-base\n\n"
    "Options [default]:\n";

struct ExportOptions {
  std::string format = "a1111";
  std::string name;
  std::string token;
  bool inference = false;
  std::filesystem::path base;
  std::string dtype;
  BaseConfig base_options;
  std::filesystem::path output;
};

void declare(OptionTable& t, ExportOptions& o) {
  t.add("format", o.format, "",
        "Hypernetworks: a1111, a .pt for AUTOMATIC1111's web UI and for ComfyUI, or a .safetensors. Embeddings: a1111 "
        "(.pt), diffusers "
        "(.safetensors) or kohya (.pt, .safetensors). LoRAs: diffusers or kohya (.safetensors)");
  t.add("output", o.output, "", "File to write; one that is there is not written over");
  t.add("name", o.name, "", "Name of a hypernetwork or LoRA that the web UI shows (empty: the one trained under)");
  t.add("inference", o.inference, "",
        "Hypernetworks: leave dropout out, which ComfyUI would keep active; layers are numbered anew");
  t.add("base", o.base, "", "Dreambooth: where the base lies that was trained on (empty: where it lay then)");
  t.add("dtype", o.dtype, "",
        "Whole models: type of the weights, fp32 | fp16 | bf16 (empty: a base's as stored, what was trained in fp32)");
  declare(t, o.base_options);
  t.add("token", o.token, "", "Of several words of a textual inversion, the one to write (empty: all)");
}

void check(const CommandLine& line, const ExportOptions& options) {
  if (line.positional.size() != 1) {
    fail_input("export: expected one CHECKPOINT, found ", line.positional.size(), "; see ldmtune export --help");
  }
  if (options.output.empty()) fail_input("option output is missing: give --output FILE");
  if (std::filesystem::exists(options.output)) {
    fail_input("option output: ", options.output.string(), " is there already and is not written over");
  }
  const std::filesystem::path folder = options.output.has_parent_path() ? options.output.parent_path() : ".";
  if (!std::filesystem::is_directory(folder)) fail_input("option output: folder ", folder.string(), " does not exist");
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

void check_hypernetwork_options(const ExportOptions& options) {
  if (options.format != "a1111") {
    fail_input("option format: expected a1111 (for hypernetworks the one there is), found \"", options.format, "\"");
  }
  const std::string extension = options.output.extension().string();
  if (extension != ".pt" && extension != ".safetensors") {
    fail_input("option output: expected a file name ending in .pt or .safetensors, found ", options.output.string());
  }
}

/// From one of the two formats to the other, or without dropout.
void convert_hypernetwork(const std::filesystem::path& file, const ExportOptions& options) {
  const at::NoGradGuard no_grad;
  check_hypernetwork_options(options);
  const adapt::HypernetworkFile read = adapt::read_hypernetwork(file);
  read.network->export_file(*read.arena, options.output,
                            {options.name.empty() ? read.name : options.name, read.step, read.base_sha256,
                             read.base_name, options.inference});
  LDMTUNE_LOG(info) << "wrote " << options.output.string() << " (step " << read.step << ")";
}

void export_hypernetwork(const train::CheckpointState& state, const store::TensorMap& parameters,
                         const std::filesystem::path& checkpoint, const ExportOptions& options) {
  const std::filesystem::path file = checkpoint / "parameters.safetensors";
  check_hypernetwork_options(options);
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

void export_model(const train::CheckpointState& state, const store::TensorMap& parameters,
                  const std::filesystem::path& checkpoint, const ExportOptions& options) {
  if (options.format == "ldm") {
    write_base(trained_parts(state, parameters, checkpoint, options.base), base_of(state, options.base),
               options.base_options, options.format, options.dtype, options.output);
    return;
  }
  const at::ScalarType dtype = parse_weight_type(options.dtype.empty() ? "fp32" : options.dtype);
  if (options.format != "diffusers") {
    fail_input("option format: expected diffusers (a folder) for a model's weights, found \"", options.format, "\"");
  }
  export_diffusers_folder(state, parameters, checkpoint, options.base, dtype, options.output);
}

void export_checkpoint(const std::filesystem::path& checkpoint, const ExportOptions& options) {
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
    export_model(state, parameters, checkpoint, options);
  } else {
    export_hypernetwork(state, parameters, checkpoint, options);
  }
  LDMTUNE_LOG(info) << "wrote " << options.output.string() << " (step " << state.step << ")";
}

}  // namespace

ExitCode run_export(const Arguments& arguments, comm::Communicator& comm) {
  ExportOptions options;
  OptionTable table;
  declare(table, options);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  const CommandLine line = parse_command_line(arguments);
  table.set(line.settings);
  check(line, options);
  pipeline::run_together(comm, [&] {
    if (comm.rank() != 0) return;
    const std::filesystem::path given = line.positional.front();
    if (is_base(given, options.format)) {
      export_base(given, options.base_options, options.format, options.dtype, options.output);
      LDMTUNE_LOG(info) << "wrote " << options.output.string();
    } else if (std::filesystem::is_regular_file(given) && options.format == "a1111") {
      convert_hypernetwork(given, options);
    } else {
      export_checkpoint(checkpoint_in(given), options);
    }
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
