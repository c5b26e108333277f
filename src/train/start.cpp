#include "train/start.h"

#include "adapt/init_from.h"
#include "core/error.h"
#include "core/log.h"
#include "model/ldm_file.h"
#include "store/files.h"
#include "store/safetensors.h"
#include "train/checkpoint.h"
#include "train/run.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// The file that a run or checkpoint folder trained.
fs::path trained_file(const fs::path& given, const std::string& method) {
  const std::string option = "option " + method + ".init_from: ";
  fs::path checkpoint = given;
  if (is_folder(given / "checkpoints")) checkpoint = latest_checkpoint(given);
  if (checkpoint.empty()) fail_input(option, given.string(), " has no complete checkpoint yet");
  const CheckpointState state = read_checkpoint_state(checkpoint);
  const auto found = state.config.find("method");
  if (found == state.config.end() || found->second != method) {
    fail_input(option, checkpoint.string(), " was trained with method ",
               found == state.config.end() ? "?" : found->second, ", expected ", method);
  }
  if (method == "dreambooth") {
    const fs::path average = checkpoint / "ema.safetensors";  // with optim.use_ema the average is what was measured
    return fs::exists(average) ? average : checkpoint / "parameters.safetensors";
  }
  for (const char* extension : {".pt", ".safetensors"}) {
    if (fs::exists(checkpoint / (state.adapter_name + extension))) return checkpoint / (state.adapter_name + extension);
  }
  fail_input(option, checkpoint.string(), " holds no ", state.adapter_name,
             ".pt or .safetensors; write it with ldmtune export and give that file");
}

/// "model.diffusion_model.conv_in.weight": of a whole model in one file.
bool holds_whole_model(const fs::path& file) {
  if (file.extension() != ".safetensors") return true;
  for (const store::TensorInfo& tensor : store::read_safetensors_header(file)) {
    if (tensor.name.starts_with("model.diffusion_model.")) return true;
  }
  return false;
}

/// UNet and text encoders of a whole model, named as dreambooth names weights.
store::TensorMap weights_of_model(const fs::path& path, const TrainConfig& config) {
  BaseConfig own = config.base_options;
  own.vae.clear();
  const model::BaseParts parts = model::read_base_parts(path, model::options_of(own, config.variant));
  store::TensorMap weights;
  for (const auto& [component, network] : parts.networks) {
    if (component == "vae") continue;
    for (const auto& [key, tensor] : network.tensors) weights.emplace(component + "." + key, tensor);
  }
  return weights;
}

std::string start_dreambooth(const TrainConfig& config, const model::BaseModel& base, const Trial& trial) {
  const auto& dreambooth = dynamic_cast<const adapt::Dreambooth&>(*trial.adapter);
  fs::path given = config.dreambooth.init_from;
  const bool is_model = is_folder(given) ? fs::exists(given / "model_index.json") : holds_whole_model(given);
  if (is_model) {
    const store::TensorMap weights = weights_of_model(given, config);
    adapt::start_from_weights(dreambooth, *trial.arena, base, weights, given.string());
    return store::sha256_tensors_exact(weights);
  }
  if (is_folder(given)) given = trained_file(given, config.method);
  const store::TensorMap weights = store::read_safetensors(given).tensors;
  store::check_finite(weights, given);
  adapt::start_from_weights(dreambooth, *trial.arena, base, weights, given.string());
  return store::sha256_file(given);
}

std::string start_beside_base(const TrainConfig& config, const model::BaseModel& base, const Trial& trial) {
  fs::path file = init_from(config);
  if (is_folder(file)) file = trained_file(file, config.method);
  if (const auto* network = dynamic_cast<const adapt::Hypernetwork*>(trial.adapter.get())) {
    adapt::start_from_hypernetwork(*network, *trial.arena, base, file);
  } else {
    adapt::start_from_lora(dynamic_cast<const adapt::Lora&>(*trial.adapter), *trial.arena, base, file);
  }
  return store::sha256_file(file);
}

}  // namespace

fs::path init_from(const TrainConfig& config) {
  if (config.method == "hypernetwork") return config.hypernetwork.init_from;
  if (config.method == "lora") return config.lora.init_from;
  return config.method == "dreambooth" ? config.dreambooth.init_from : fs::path();
}

std::string start_from_file(const TrainConfig& config, const model::BaseModel& base, Trial& trial,
                            comm::Communicator& comm) {
  const std::string sha256 =
      config.method == "dreambooth" ? start_dreambooth(config, base, trial) : start_beside_base(config, base, trial);
  trial.arena->refresh_copies();
  attach_optimizer(trial, config, comm);
  LDMTUNE_LOG(info) << "Starting from " << init_from(config).string() << " (sha256 " << sha256.substr(0, 12) << ")";
  return sha256;
}

}  // namespace ldmtune::train
