#include "cli/export_model.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "adapt/dreambooth.h"
#include "adapt/merge.h"
#include "core/config.h"
#include "core/error.h"
#include "pipeline/dataset_writer.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

std::string option_of(const train::CheckpointState& state, const std::string& name) {
  const auto found = state.config.find(name);
  return found == state.config.end() ? "" : found->second;
}

TrainConfig config_of(const train::CheckpointState& state) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const auto& [name, text] : state.config) {
    if (table.contains(name)) table.set({name, text, "state.json"});
  }
  return config;
}

/// Components whose weights are not the base folder's any more.
bool differs(const std::string& component, const train::CheckpointState& state, const store::TensorMap& parameters) {
  if (!option_of(state, "base.merge").empty()) return true;
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const auto& parameter) { return parameter.first.rfind(component + ".", 0) == 0; });
}

void write_weights(const fs::path& file, store::TensorMap tensors, at::ScalarType dtype) {
  for (auto& [key, tensor] : tensors) tensor = tensor.detach().to(at::kCPU, dtype).contiguous();
  store::write_safetensors(file, tensors, {{"format", "pt"}});
}

/// What links point to is copied: cache snapshots are links.
void copy_folder(const fs::path& from, const fs::path& to) { fs::copy(from, to, fs::copy_options::recursive); }

void write_component(const std::string& component, const model::BaseModel& trained, at::ScalarType dtype,
                     const fs::path& output) {
  fs::create_directories(output / component);
  fs::copy_file(trained.folder / component / "config.json", output / component / "config.json");
  const char* stem = component == "unet" ? "diffusion_pytorch_model.safetensors" : "model.safetensors";
  write_weights(output / component / stem, *adapt::parameters_of(trained, component), dtype);
}

}  // namespace

fs::path base_of(const train::CheckpointState& state, const fs::path& given) {
  return given.empty() ? fs::path(option_of(state, "base")) : given;
}

at::ScalarType parse_weight_type(const std::string& name) {
  if (name == "fp32") return at::kFloat;
  if (name == "fp16") return at::kHalf;
  if (name == "bf16") return at::kBFloat16;
  fail_input("option dtype: expected fp32, fp16 or bf16, found '", name, "'");
}

model::BaseModel load_trained_model(const train::CheckpointState& state, const store::TensorMap& parameters,
                                    const fs::path& checkpoint, const fs::path& given) {
  const fs::path folder = base_of(state, given);
  if (!fs::exists(folder)) {
    fail_input("option base: ", folder.string(), ", the base of ", checkpoint.string(),
               ", is not there; give --base with where it lies now");
  }
  const TrainConfig config = config_of(state);
  model::BaseModelOptions options = model::options_of(config.base_options, config.variant);
  options.vae = false;
  model::BaseModel base = model::load_base_model(folder, options);
  adapt::merge_into(base, option_of(state, "base.merge"));
  if (base.sha256 != state.base_sha256) {
    fail_input("option base: ", checkpoint.string(), " was trained on ", state.base_name, " (",
               state.base_sha256.substr(0, 12), "), but ", folder.string(), " is another (", base.sha256.substr(0, 12),
               ")");
  }
  adapt::load_trained_weights(parameters, checkpoint / "parameters.safetensors", base);
  return base;
}

model::BaseParts trained_parts(const train::CheckpointState& state, const store::TensorMap& parameters,
                               const fs::path& checkpoint, const fs::path& given) {
  const model::BaseModel trained = load_trained_model(state, parameters, checkpoint, given);
  const TrainConfig config = config_of(state);
  model::BaseParts parts =
      model::read_base_parts(base_of(state, given), model::options_of(config.base_options, config.variant));
  for (auto& [name, network] : parts.networks) {
    if (adapt::parameters_of(trained, name) && differs(name, state, parameters)) {
      network.tensors = *adapt::parameters_of(trained, name);
    }
  }
  return parts;
}

void export_diffusers_folder(const train::CheckpointState& state, const store::TensorMap& parameters,
                             const fs::path& checkpoint, const fs::path& given, at::ScalarType dtype,
                             const fs::path& output) {
  const fs::path folder = base_of(state, given);
  if (fs::is_regular_file(folder)) {
    fail_input("option format: diffusers needs a base in the diffusers layout, whose other components it copies; ",
               folder.string(), " is a single file");
  }
  const model::BaseModel trained = load_trained_model(state, parameters, checkpoint, folder);
  const nlohmann::json model_index = store::read_json(folder / "model_index.json");
  pipeline::PartialFolder partial(output);
  fs::copy_file(folder / "model_index.json", partial.path() / "model_index.json");
  for (const auto& [component, value] : model_index.items()) {
    if (!fs::is_directory(folder / component)) continue;
    if (adapt::parameters_of(trained, component) && differs(component, state, parameters)) {
      write_component(component, trained, dtype, partial.path());
    } else {
      copy_folder(folder / component, partial.path() / component);
    }
  }
  partial.commit();
}

}  // namespace ldmtune::cli
