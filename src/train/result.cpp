#include "train/result.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "store/files.h"
#include "train/run_folder.h"
#include "train/start.h"

namespace ldmtune::train {
namespace {

using Losses = std::map<std::string, ValidationLoss>;
using nlohmann::json;

bool has(const Losses& losses, const std::string& kind) {
  const auto found = losses.find(kind);
  return found != losses.end() && !found->second.by_image.empty();
}

json mean_of(const Losses& losses, const std::string& kind) {
  return has(losses, kind) ? json(losses.at(kind).mean) : json(nullptr);
}

std::string text_of(const Losses& losses, const std::string& kind) {
  return has(losses, kind) ? format_number(losses.at(kind).mean) : "";
}

json drift_of(const Losses& losses, const std::string& kind) {
  return has(losses, kind) ? json(losses.at(kind).drift) : json(nullptr);
}

std::string drift_text_of(const Losses& losses, const std::string& kind) {
  return has(losses, kind) ? format_number(losses.at(kind).drift) : "";
}

/// null where the file was too large to be written.
json bytes_of(const std::filesystem::path& file) {
  std::error_code missing;
  const auto bytes = std::filesystem::file_size(file, missing);
  return missing ? json(nullptr) : json(bytes);
}

std::string device_name(const at::Device& device) {
  std::ostringstream text;
  text << device;
  return text.str();
}

/// Each dataset that trains: {"path", "sha256", "weight", "training_samples"}, the last before weights.
json describe_datasets(const TrialSetup& setup) {
  const data::StreamRows& rows = setup.source.stream_rows();
  json list = json::array();
  for (std::size_t i = 0; i < rows.weights.size(); ++i) {
    std::uint64_t samples = 0;
    for (const auto& shares : rows.rows) samples += shares[i];
    const auto& dataset = setup.shared.dataset.datasets()[i];
    list.push_back({{"path", dataset->folder().string()},
                    {"sha256", dataset->sha256()},
                    {"weight", rows.weights[i].value()},
                    {"training_samples", samples}});
  }
  return list;
}

}  // namespace

void write_run_description(const std::filesystem::path& run_folder, const TrialSetup& setup,
                           const CheckpointState& state, const comm::Communicator& comm) {
  json run = describe_program();
  run["base"] = setup.config.base.string();
  run["base_sha256"] = setup.shared.base.sha256;
  run["vae_sha256"] = setup.shared.base.vae_sha256;
  run["dataset"] = setup.config.data.string();
  run["dataset_sha256"] = setup.shared.dataset.sha256();
  run["datasets"] = describe_datasets(setup);
  run["class_data_sha256"] = setup.shared.class_data ? json(setup.shared.class_data->sha256()) : json(nullptr);
  run["adjacent_sha256"] = setup.shared.adjacent ? json(setup.shared.adjacent->sha256()) : json(nullptr);
  if (!state.init_sha256.empty()) {
    run["init_from"] = init_from(setup.config).string();
    run["init_from_sha256"] = state.init_sha256;
  }
  run["ranks"] = comm.size();
  run["ranks_on_this_host"] = comm.local_size();
  run["device"] = device_name(setup.shared.device);
  run["threads_per_rank"] = at::get_num_threads();
  run["validation_timesteps"] = setup.shared.validator.timesteps();
  store::write_json(run_folder / "run.json", run);
}

std::vector<std::string> validation_columns() {
  return {"step",
          "concept_train",
          "concept_heldout",
          "adjacent",
          "heldout_q1",
          "heldout_q2",
          "heldout_q3",
          "heldout_q4",
          "adjacent_drift",
          "adjacent_trigger",
          "adjacent_trigger_drift"};
}

std::vector<std::string> validation_row(std::int64_t step, const Losses& losses) {
  std::vector<std::string> row{std::to_string(step), text_of(losses, "train"), text_of(losses, "heldout"),
                               text_of(losses, "adjacent")};
  for (std::size_t q = 0; q < 4; ++q) {
    row.push_back(has(losses, "heldout") ? format_number(losses.at("heldout").by_quartile[q]) : "");
  }
  row.push_back(drift_text_of(losses, "adjacent"));
  row.push_back(text_of(losses, "adjacent_trigger"));
  row.push_back(drift_text_of(losses, "adjacent_trigger"));
  return row;
}

void write_result(const TrialSetup& setup, const Trial& trial, const CheckpointState& state, const std::string& status,
                  const Losses& base, const Losses& last, double seconds, double samples_per_s, int ranks) {
  const std::filesystem::path checkpoint =
      checkpoint_folder(setup.config.output, trial.step).lexically_relative(setup.config.output);
  const std::filesystem::path exported = checkpoint / export_file_name(trial, state.adapter_name);
  const bool measured = std::isfinite(state.best_heldout_loss);
  const bool stopped = status == "done" && trial.step < setup.max_train_steps;
  const json result{{"status", status},
                    {"method", setup.config.method},
                    {"steps", trial.step},
                    {"max_train_steps", setup.max_train_steps},
                    {"stopped_by", stopped ? json(setup.config.stop.rule) : json(nullptr)},
                    {"heldout_loss", mean_of(last, "heldout")},
                    {"base_heldout_loss", mean_of(base, "heldout")},
                    {"best_heldout_loss", measured ? json(state.best_heldout_loss) : json(nullptr)},
                    {"best_step", state.best_step},
                    {"concept_train_loss", mean_of(last, "train")},
                    {"base_concept_train_loss", mean_of(base, "train")},
                    {"adjacent_loss", mean_of(last, "adjacent")},
                    {"base_adjacent_loss", mean_of(base, "adjacent")},
                    {"adjacent_drift", drift_of(last, "adjacent")},
                    {"adjacent_trigger_loss", mean_of(last, "adjacent_trigger")},
                    {"base_adjacent_trigger_loss", mean_of(base, "adjacent_trigger")},
                    {"adjacent_trigger_drift", drift_of(last, "adjacent_trigger")},
                    {"test_loss", mean_of(last, "test")},
                    {"base_test_loss", mean_of(base, "test")},
                    {"trainable_parameters", trial.arena->trainable_elements()},
                    {"training_tflops", static_cast<double>(trial.step) * setup.update_flops * 1e-12},
                    {"seconds", seconds},
                    {"samples_per_s", samples_per_s},
                    {"checkpoint", checkpoint.string()},
                    {"export", exported.string()},
                    {"export_bytes", bytes_of(setup.config.output / exported)},
                    {"ranks", ranks},
                    {"base_sha256", state.base_sha256},
                    {"dataset_sha256", state.dataset_sha256}};
  store::write_json(setup.config.output / "result.json", result);
}

}  // namespace ldmtune::train
