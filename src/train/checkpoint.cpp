#include "train/checkpoint.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "store/safetensors.h"
#include "train/ema_weights.h"
#include "train/run.h"
#include "train/run_folder.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kLargestExport = std::int64_t{1} << 30;  // bytes; larger exchange files are made by `export`
constexpr const char* kParametersFile = "parameters.safetensors";
constexpr const char* kAverageFile = "ema.safetensors";

json layout_of(const optim::Arena& arena) {
  json layout = json::array();
  for (const optim::ArenaEntry& entry : arena.entries()) {
    layout.push_back({{"name", entry.spec.name}, {"shape", entry.spec.shape}, {"offset", entry.offset}});
  }
  return layout;
}

json to_json(const CheckpointState& state, const optim::Arena& arena, int ranks) {
  return {{"format", "ldmtune-checkpoint"},
          {"version", 1},
          {"step", state.step},
          {"seconds", state.seconds},
          {"ranks", ranks},
          {"base_heldout_loss", state.base_heldout_loss},
          {"best_step", state.best_step},
          {"best_heldout_loss", state.best_heldout_loss},
          {"base_name", state.base_name},
          {"base_sha256", state.base_sha256},
          {"dataset_sha256", state.dataset_sha256},
          {"init_sha256", state.init_sha256},
          {"adapter_name", state.adapter_name},
          {"layout", layout_of(arena)},
          {"config", state.config}};
}

std::string slice_file_name(int rank, int ranks) {
  char name[60];
  std::snprintf(name, sizeof name, "optimizer-%05d-of-%05d.safetensors", rank, ranks);
  return name;
}

store::TensorMap to_cpu(store::TensorMap tensors) {
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().to(at::kCPU).contiguous();
  return tensors;
}

void write_optimizer_slice(const fs::path& folder, const Trial& trial, const comm::Communicator& comm) {
  const optim::Optimizer& optimizer = *trial.optimizer;
  store::write_safetensors(folder / slice_file_name(comm.rank(), comm.size()), to_cpu(optimizer.state()),
                           {{"begin", std::to_string(optimizer.begin())}, {"end", std::to_string(optimizer.end())}});
}

/// [[step, loss], ...]
json to_json(const std::vector<StoppingRule::Value>& values) {
  json list = json::array();
  for (const StoppingRule::Value& value : values) list.push_back({value.step, value.loss});
  return list;
}

std::vector<StoppingRule::Value> stop_values_of(const json& list) {
  std::vector<StoppingRule::Value> values;
  for (const json& entry : list) values.push_back({entry.at(0), entry.at(1)});
  return values;
}

/// What follows from the updates so far and is the same on all ranks.
json numbers_of(const Trial& trial) {
  json numbers = {{"optimizer", trial.optimizer->scalars()}};
  if (trial.scaler) {
    numbers["loss_scale"] = {{"scale", trial.scaler->scale},
                             {"good_updates", trial.scaler->good_updates},
                             {"skipped", trial.scaler->skipped}};
  }
  return numbers;
}

void restore_numbers(const json& state, Trial& trial) {
  if (state.contains("optimizer")) {
    trial.optimizer->set_scalars(state.at("optimizer").get<std::map<std::string, double>>());
  }
  if (!trial.scaler) return;
  const json& scale = state.at("loss_scale");
  *trial.scaler = {scale.at("scale"), scale.at("good_updates"), scale.at("skipped")};
}

/// Parameters, their average where there is one, and the exchange file where neither of them is it already.
void write_parameters(const fs::path& folder, const Trial& trial, const at::Tensor& average,
                      const CheckpointState& state) {
  const adapt::Adapter& adapter = *trial.adapter;
  if (adapter.exports_plain_parameters()) {
    const adapt::Adapter::ExportInfo info{.step = state.step, .base_sha256 = state.base_sha256};
    adapter.export_file(*trial.arena, folder / kParametersFile, info);
    const EmaWeights averaged(trial, average);
    if (average.defined()) adapter.export_file(*trial.arena, folder / kAverageFile, info);
    return;
  }
  store::write_safetensors(folder / kParametersFile, to_cpu(trial.arena->parameter_views()));
  if (average.defined()) store::write_safetensors(folder / kAverageFile, to_cpu(trial.arena->views_of(average)));
  if (trial.arena->trainable_elements() * 4 >= kLargestExport) return;
  const EmaWeights averaged(trial, average);
  adapter.export_file(*trial.arena, folder / export_file_name(trial, state.adapter_name),
                      {state.adapter_name, state.step, state.base_sha256, state.base_name});
}

void write_shared_files(const fs::path& folder, const Trial& trial, const at::Tensor& average,
                        const CheckpointState& state, int ranks) {
  write_parameters(folder, trial, average, state);
  json whole_state = to_json(state, *trial.arena, ranks);
  whole_state.update(numbers_of(trial));
  if (!state.stop_values.empty()) whole_state["stop_values"] = to_json(state.stop_values);
  store::write_json(folder / "state.json", whole_state);
}

void write_manifest(const fs::path& folder) {
  json files = json::object();
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = store::sha256_file(entry.path());
  }
  store::write_json(folder / "MANIFEST.json", {{"format", "ldmtune-manifest"}, {"sha256", files}});
}

bool is_complete(const fs::path& checkpoint) {
  return checkpoint.extension().empty() && fs::exists(checkpoint / "MANIFEST.json");
}

std::vector<fs::path> complete_checkpoints(const fs::path& run_folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_folder / "checkpoints", error)) {
    if (is_complete(entry.path())) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

void prune(const fs::path& run_folder, const CheckpointState& state, std::int64_t limit) {
  if (limit <= 0) return;
  std::vector<fs::path> checkpoints = complete_checkpoints(run_folder);
  const fs::path best = checkpoint_folder(run_folder, state.best_step);
  auto surplus = static_cast<std::int64_t>(checkpoints.size()) - limit;
  for (const fs::path& checkpoint : checkpoints) {
    if (surplus <= 0) return;
    if (checkpoint == best) continue;
    // Without its manifest a half-removed folder is no checkpoint.
    fs::remove(checkpoint / "MANIFEST.json");
    fs::remove_all(checkpoint);
    --surplus;
  }
}

json read_state_file(const fs::path& checkpoint) {
  const json state = store::read_json(checkpoint / "state.json");
  if (state.value("format", "") != "ldmtune-checkpoint" || state.value("version", 0) != 1) {
    fail_input((checkpoint / "state.json").string(), ": expected format ldmtune-checkpoint, version 1, found '",
               state.value("format", ""), "', version ", state.value("version", 0));
  }
  return state;
}

void copy_overlap(const store::SafetensorsFile& file, std::int64_t begin, std::int64_t end,
                  const optim::Optimizer& optimizer) {
  const std::int64_t from = std::max(begin, optimizer.begin()), to = std::min(end, optimizer.end());
  if (from >= to) return;
  for (auto& [name, state] : optimizer.state()) {
    state.slice(0, from - optimizer.begin(), to - optimizer.begin())
        .copy_(file.tensors.at(name).slice(0, from - begin, to - begin));
  }
}

/// Options that may change between a checkpoint and its resume without making another run of it.
bool defines_bits(const std::string& option) {
  if (option == "method" || option.rfind("data.", 0) == 0 || option.rfind("caption.", 0) == 0 ||
      option.rfind("loss.", 0) == 0 || option.rfind("noise.", 0) == 0) {
    return true;
  }
  if (option.rfind("dreambooth.", 0) == 0) return option != "dreambooth.class_data";  // its content has a hash
  if (option.rfind("lora.", 0) == 0 || option.rfind("textual_inversion.", 0) == 0) return true;
  if (option.rfind("hypernetwork.", 0) == 0) return option != "hypernetwork.name";
  return option == "train.seed" || option == "train.global_batch_size" || option == "train.micro_batch_size" ||
         option == "train.mixed_precision" || option == "train.gradient_checkpointing" || option == "optim.optimizer" ||
         option == "optim.use_ema";
}

}  // namespace

std::string export_file_name(const Trial& trial, const std::string& adapter_name) {
  if (trial.adapter->exports_plain_parameters()) return trial.ema ? kAverageFile : kParametersFile;
  return adapter_name + trial.adapter->file_extension();
}

fs::path latest_checkpoint(const fs::path& run_folder) {
  const std::vector<fs::path> found = complete_checkpoints(run_folder);
  return found.empty() ? fs::path() : found.back();
}

void write_checkpoint(const fs::path& run_folder, const Trial& trial, const CheckpointState& state, std::int64_t limit,
                      comm::Communicator& comm) {
  const fs::path folder = checkpoint_folder(run_folder, state.step);
  const fs::path partial = folder.string() + ".partial";
  const bool is_root = comm.rank() == 0;
  const at::Tensor average = whole_average(trial, comm);
  // Three stages that end alike on all ranks: a full disk on one must not leave the others waiting.
  pipeline::run_together(comm, [&] {
    if (!is_root) return;
    fs::remove_all(partial);
    fs::create_directories(partial);
  });
  pipeline::run_together(comm, [&] {
    write_optimizer_slice(partial, trial, comm);
    if (is_root) write_shared_files(partial, trial, average, state, comm.size());
  });
  pipeline::run_together(comm, [&] {
    if (!is_root) return;
    write_manifest(partial);
    store::sync_folder(partial);
    fs::remove_all(folder);
    fs::rename(partial, folder);
    store::sync_folder(folder.parent_path());
    prune(run_folder, state, limit);
  });
}

CheckpointState read_checkpoint_state(const fs::path& checkpoint) {
  if (!fs::exists(checkpoint / "MANIFEST.json")) {
    fail_input(
        checkpoint.string(),
        ": no complete checkpoint (MANIFEST.json is missing); give a folder such as RUN/checkpoints/step-00000500");
  }
  const json manifest = store::read_json(checkpoint / "MANIFEST.json");
  for (const auto& [file, sha256] : manifest.at("sha256").items()) {
    if (!fs::exists(checkpoint / file)) fail_input((checkpoint / file).string(), ": missing from the checkpoint");
    if (store::sha256_file(checkpoint / file) != sha256.get<std::string>()) {
      fail_input((checkpoint / file).string(),
                 ": damaged (its sha256 is not the manifest's); resume from another checkpoint");
    }
  }
  const json file = read_state_file(checkpoint);
  CheckpointState state;
  state.step = file.at("step");
  state.seconds = file.at("seconds");
  state.base_heldout_loss = file.at("base_heldout_loss");
  // null: not measured yet (JSON has no infinity).
  const json& best = file.at("best_heldout_loss");
  state.best_heldout_loss = best.is_null() ? std::numeric_limits<double>::infinity() : best.get<double>();
  state.best_step = file.at("best_step");
  state.base_name = file.at("base_name");
  state.base_sha256 = file.at("base_sha256");
  state.dataset_sha256 = file.at("dataset_sha256");
  state.init_sha256 = file.value("init_sha256", "");
  state.adapter_name = file.at("adapter_name");
  state.stop_values = stop_values_of(file.value("stop_values", json::array()));
  state.config = file.at("config").get<std::map<std::string, std::string>>();
  return state;
}

void check_same_run(const CheckpointState& state, const CheckpointState& now, const fs::path& checkpoint) {
  if (state.base_sha256 != now.base_sha256) {
    fail_input("option base: ", checkpoint.string(), " was trained on base ", state.base_name, " (",
               state.base_sha256.substr(0, 12), "), found ", now.base_name, " (", now.base_sha256.substr(0, 12), ")");
  }
  if (state.dataset_sha256 != now.dataset_sha256) {
    fail_input("option data: ", checkpoint.string(), " was trained on another dataset (",
               state.dataset_sha256.substr(0, 12), ", found ", now.dataset_sha256.substr(0, 12),
               "); start a new run in another output folder");
  }
  for (const auto& [option, text] : state.config) {
    const auto found = now.config.find(option);
    if (found == now.config.end() || found->second == text) continue;
    if (defines_bits(option)) {
      fail_input("option ", option, ": ", checkpoint.string(), " was trained with '", text, "', found '", found->second,
                 "'; give the old value or start a new run in another output folder");
    }
  }
}

void load_checkpoint(const fs::path& checkpoint, Trial& trial) {
  const at::NoGradGuard no_grad;
  const json state = read_state_file(checkpoint);
  if (state.at("layout") != layout_of(*trial.arena)) {
    fail_input(checkpoint.string(), ": its parameters have other names or shapes than this configuration's");
  }
  const store::SafetensorsFile parameters = store::read_safetensors(checkpoint / kParametersFile);
  for (auto& [name, view] : trial.arena->parameter_views()) view.copy_(parameters.tensors.at(name));
  trial.arena->refresh_copies();
  trial.step = state.at("step");
  restore_numbers(state, trial);
  if (trial.ema) {
    const store::SafetensorsFile averages = store::read_safetensors(checkpoint / kAverageFile);
    at::Tensor whole = at::zeros_like(trial.arena->parameters());
    for (auto& [name, view] : trial.arena->views_of(whole)) view.copy_(averages.tensors.at(name));
    trial.ema->average().copy_(whole.slice(0, trial.ema->begin(), trial.ema->end()));
  }
  const int ranks = state.at("ranks");
  for (int rank = 0; rank < ranks; ++rank) {
    const store::SafetensorsFile slice = store::read_safetensors(checkpoint / slice_file_name(rank, ranks));
    copy_overlap(slice, std::stoll(slice.metadata.at("begin")), std::stoll(slice.metadata.at("end")), *trial.optimizer);
  }
}

}  // namespace ldmtune::train
