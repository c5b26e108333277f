#include "cli/export_model.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "adapt/dreambooth.h"
#include "adapt/merge.h"
#include "cli/export_base.h"
#include "core/error.h"
#include "model/base_model.h"

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

/// Whether a component's weights are not the base's any more.
bool differs(const std::string& component, const train::CheckpointState& state, const store::TensorMap& parameters) {
  if (!option_of(state, "base.merge").empty()) return true;
  return std::any_of(parameters.begin(), parameters.end(),
                     [&](const auto& parameter) { return parameter.first.rfind(component + ".", 0) == 0; });
}

/// How the checkpoint's run read its base, and where that lies now.
BasePlace place_of(const TrainConfig& config, const BasePlace& given) {
  BasePlace place{config.base, config.base_options};
  if (!given.base.empty()) place.base = given.base;
  if (!given.options.tokenizer.empty()) place.options.tokenizer = given.options.tokenizer;
  if (!given.options.vae.empty()) place.options.vae = given.options.vae;
  return place;
}

/// UNet and text encoders with the trained weights in place, f32. Errors: InputError if the base is another one.
model::BaseModel load_trained_model(const train::CheckpointState& state, const store::TensorMap& parameters,
                                    const fs::path& checkpoint, const BasePlace& place, const std::string& variant) {
  model::BaseModelOptions options = model::options_of(place.options, variant);
  options.vae = false;
  model::BaseModel base = model::load_base_model(place.base, options);
  adapt::merge_into(base, option_of(state, "base.merge"));
  if (base.sha256 != state.base_sha256) {
    fail_input("option base: ", checkpoint.string(), " was trained on ", state.base_name, " (",
               state.base_sha256.substr(0, 12), "), but ", place.base.string(), " is another (",
               base.sha256.substr(0, 12), ")");
  }
  adapt::load_trained_weights(parameters, checkpoint / "parameters.safetensors", base);
  return base;
}

}  // namespace

void export_model(const train::CheckpointState& state, const store::TensorMap& parameters, const fs::path& checkpoint,
                  const BasePlace& given, const std::string& format, const std::string& dtype, const fs::path& output) {
  if (format != "diffusers" && format != "ldm") {
    fail_input("option format: expected diffusers (a folder) or ldm (one file) for a model's weights, found \"", format,
               "\"");
  }
  parse_stored_type(dtype);  // before anything is read
  const TrainConfig config = config_of(state);
  const BasePlace place = place_of(config, given);
  if (!fs::exists(place.base)) {
    fail_input("option base: ", place.base.string(), ", the base of ", checkpoint.string(),
               ", is not there; give --base with where it lies now");
  }
  const model::BaseModel trained = load_trained_model(state, parameters, checkpoint, place, config.variant);
  model::BaseParts parts = model::read_base_parts(place.base, model::options_of(place.options, config.variant));
  for (auto& [name, network] : parts.networks) {
    const store::TensorMap* weights = adapt::parameters_of(trained, name);
    if (weights != nullptr && differs(name, state, parameters)) network.tensors = *weights;
  }
  if (config.noise.rescale_betas_zero_snr) {
    parts.scheduler_config["rescale_betas_zero_snr"] = true;
    parts.scheduler_config["timestep_spacing"] = "trailing";
  }
  // One type throughout: diffusers loads a folder's text encoder in the type that it finds, the UNet in fp32.
  write_base(parts, place.base, place.options, format, dtype.empty() ? "fp32" : dtype, output);
}

}  // namespace ldmtune::cli
