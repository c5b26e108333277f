// ldmtune bench: what a training step costs on this machine.

#include "train/bench.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "cli/commands.h"
#include "core/config.h"
#include "core/log.h"
#include "core/progress.h"
#include "model/base_outline.h"
#include "pipeline/collective.h"
#include "pipeline/stop_signals.h"
#include "store/files.h"
#include "sweep/cost.h"
#include "train/gradient_world.h"
#include "train/run_folder.h"
#include "train/synthetic_data.h"

namespace ldmtune::cli {
namespace {

using nlohmann::json;

constexpr const char* kUsage =
    R"(Usage: [mpirun -n RANKS] ldmtune bench --base BASE | --config FILE [--section.option VALUE ...]

Times training steps as `ldmtune train` would make them with this configuration, without measurements, pictures or
checkpoints, and leaves nothing behind. Prints steps/s, samples/s, counted TFLOP/s (what `sweep plan` counts: the UNet
and what trains; images of several sizes count as the largest), the share of what a large matrix product in the same
precision reaches on the same ranks at once, and the peak of memory. Without `data` it trains on random latents of one
size. Single times on shared machines say little: compare two things in turn.

  ldmtune bench --base datasets/emoji-base --method lora --train.micro_batch_size 4
  ldmtune bench --config jobs/hypernetwork-sd15.cfg --data "" --resolution 512 --steps 5 --json step.json

Options [default]:
  --config <file>
      Config file of `ldmtune train`; a file's data is used where it names one
)";

constexpr double kPeakSeconds = 1.0;

struct Request {
  TrainConfig config;
  std::int64_t steps = 20, warmup = 3, pack = 1, resolution = 0;
  std::filesystem::path json_file;
};

void declare(OptionTable& table, Request& request) {
  table.add("steps", request.steps, "updates", "How many to time");
  table.add("warmup", request.warmup, "updates", "How many to make before");
  table.add(
      "pack", request.pack, "trials",
      "Train so many in one forward, as `sweep run --pack`, and in turn with them the same trials one after another");
  table.add("resolution", request.resolution, "pixels", "Height and width of the random images (0: the base's own)");
  table.add("json", request.json_file, "", "Write the figures to this file too");
  ldmtune::declare(table, request.config);
}

void check(const Request& request) {
  const auto require = [](bool condition, const char* option, const char* expected, std::int64_t found) {
    if (!condition) fail_input("option ", option, ": expected ", expected, ", found ", found);
  };
  require(request.steps >= 1, "steps", "1 or more", request.steps);
  require(request.warmup >= 0, "warmup", "0 or more", request.warmup);
  require(request.resolution >= 0, "resolution", "0 or more", request.resolution);
  require(request.pack >= 1 && request.pack <= 1024, "pack", "1 to 1024", request.pack);
  const TrainConfig& config = request.config;
  if (config.base.empty())
    fail_input("option base: not given; bench needs --base BASE, or --config FILE that names one");
  if (model::is_single_file(config.base)) {
    model::expect_tokenizer(config.base, config.base_options.tokenizer);
  } else if (!std::filesystem::is_directory(config.base)) {
    fail_input("option base: expected a folder in the diffusers layout or a single file in the LDM layout, found ",
               config.base.string());
  }
  require(request.pack == 1 || !train::changes_base(config), "pack", "1 (dreambooth changes the base itself)",
          request.pack);
  const DreamboothConfig& dreambooth = config.dreambooth;
  if (config.method == "dreambooth" && dreambooth.with_prior_preservation && !config.data.empty() &&
      !std::filesystem::exists(dreambooth.class_data)) {
    fail_input("option dreambooth.class_data: bench draws no class images, and ", dreambooth.class_data.string(),
               " is not there; name a dataset, or leave data out");
  }
}

Request parse_request(const Arguments& arguments) {
  Request request;
  OptionTable table;
  declare(table, request);
  const CommandLine line = parse_command_line(arguments);
  if (!line.positional.empty()) {
    fail_input("bench: unexpected argument '", line.positional.front(),
               "'; options are given as --option VALUE or --section.option VALUE");
  }
  for (const OptionSetting& setting : line.settings) {
    if (setting.name == "config") table.set(read_config_file(setting.text));
  }
  for (const OptionSetting& setting : line.settings) {
    if (setting.name != "config") table.set(setting);
  }
  apply_method_defaults(table, request.config);
  check(request);
  return request;
}

/// Random data in place of none, with captions that hold what the method's captions must.
void use_synthetic_data(Request& request, const train::SyntheticData& data, int ranks) {
  TrainConfig& config = request.config;
  config.data = data.folder();
  std::string caption = "a picture";
  for (const std::string& word : config.textual_inversion.placeholder_token) caption += " " + word;
  if (config.dreambooth.with_prior_preservation) {
    config.dreambooth.class_data = data.folder();
    config.dreambooth.class_prompt.clear();  // its pictures are nothing that the base drew
    config.dreambooth.num_class_images = train::SyntheticData::kSamples;
  }
  train::checked_config(config, ranks);  // before gigabytes are read
  const std::int64_t own = sweep::base_unet_config(config.base).sample_size;
  data.write(config, request.resolution, own, caption);
}

struct Times {
  std::vector<train::Spent> packed, in_turn;
};

Times time_steps(train::Bench& bench, const Request& request, const comm::Communicator& comm,
                 const pipeline::StopSignals& signals) {
  Times times;
  const std::int64_t total = request.warmup + request.steps;
  ProgressBar bar("bench", total, "steps", comm.rank() == 0);
  for (std::int64_t i = 0; i < total; ++i) {
    signals.check();
    const train::Spent packed = bench.step_packed();
    const train::Spent in_turn = request.pack > 1 ? bench.step_in_turn() : train::Spent{};
    if (i >= request.warmup) {
      times.packed.push_back(packed);
      times.in_turn.push_back(in_turn);
    }
    bar.update(i + 1);
  }
  return times;
}

double sum(const std::vector<train::Spent>& spent, double train::Spent::*part) {
  return std::accumulate(spent.begin(), spent.end(), 0.0,
                         [part](double total, const train::Spent& one) { return total + one.*part; });
}

double sum_over_ranks(comm::Communicator& comm, double value) {
  const std::vector<double> all = comm.all_gather(std::vector<double>{value});
  return std::accumulate(all.begin(), all.end(), 0.0);
}

std::int64_t most_of_ranks(comm::Communicator& comm, std::int64_t value) {
  const std::vector<double> all = comm.all_gather(std::vector<double>{static_cast<double>(value)});
  return static_cast<std::int64_t>(*std::max_element(all.begin(), all.end()));
}

/// What one update of one trial takes.
double flops_of_update(const TrainConfig& config) {
  const model::UNetConfig unet = sweep::base_unet_config(config.base);
  const sweep::TrialCost cost = sweep::trial_cost(config, sweep::data_size(config, unet), unet);
  return cost.training_flops / static_cast<double>(cost.updates);
}

at::ScalarType type_of(const std::string& precision) {
  return precision == "bf16" ? at::kBFloat16 : precision == "fp16" ? at::kHalf : at::kFloat;
}

json figures(const Request& request, const train::Bench& bench, const Times& times, at::Device device,
             comm::Communicator& comm) {
  const TrainConfig& config = request.config;
  const std::int64_t host = most_of_ranks(comm, train::peak_host_memory());
  const std::int64_t on_device = most_of_ranks(comm, train::peak_device_memory(device));
  comm.barrier();  // all ranks at once, as they train
  const double peak =
      sum_over_ranks(comm, train::measured_peak(device, type_of(config.train.mixed_precision), kPeakSeconds));
  const double updates = static_cast<double>(request.steps * request.pack);
  const double seconds = sum(times.packed, &train::Spent::seconds);
  const double cpu_seconds = sum_over_ranks(comm, sum(times.packed, &train::Spent::cpu_seconds));
  const double flops = flops_of_update(config);
  json result = {{"format", "ldmtune-bench"},
                 {"version", 1},
                 {"method", config.method},
                 {"device", device.str()},
                 {"mixed_precision", config.train.mixed_precision},
                 {"ranks", comm.size()},
                 {"global_batch_size", config.train.global_batch_size},
                 {"micro_batch_size", config.train.micro_batch_size},
                 {"trainable_parameters", bench.trainable_parameters()},
                 {"pack", request.pack},
                 {"steps", request.steps},
                 {"seconds", seconds},
                 {"cpu_seconds", cpu_seconds},
                 {"steps_per_s", updates / seconds},
                 {"samples_per_s", updates * static_cast<double>(config.train.global_batch_size) / seconds},
                 {"tflop_per_step", flops * 1e-12},
                 {"tflops_per_s", updates * flops * 1e-12 / seconds},
                 {"peak_tflops_per_s", peak * 1e-12},
                 {"share_of_peak", updates * flops / seconds / peak},
                 {"peak_host_bytes", host},
                 {"peak_device_bytes", on_device},
                 {"program", train::describe_program()}};
  for (const train::Spent& step : times.packed) result["step_seconds"].push_back(step.seconds);
  if (request.pack > 1) {
    const double in_turn = sum_over_ranks(comm, sum(times.in_turn, &train::Spent::cpu_seconds));
    result["in_turn_seconds"] = sum(times.in_turn, &train::Spent::seconds);
    result["in_turn_cpu_seconds"] = in_turn;
    result["pack_ratio"] = in_turn / cpu_seconds;
    result["pack_wall_ratio"] = sum(times.in_turn, &train::Spent::seconds) / seconds;
  }
  return result;
}

std::string with_digits(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print(const json& result) {
  std::vector<double> seconds = result.at("step_seconds");
  std::sort(seconds.begin(), seconds.end());
  const auto number = [&](const char* key) { return result.at(key).get<double>(); };
  const auto line = [](const char* name, const std::string& text) { std::printf("%-16s %s\n", name, text.c_str()); };
  line("trains",
       cat(result.at("method").get<std::string>(), ", ", result.at("trainable_parameters"),
           " parameters, global batch ", result.at("global_batch_size"), ", micro-batch ",
           result.at("micro_batch_size"), ", mixed_precision ", result.at("mixed_precision").get<std::string>(), ", ",
           result.at("ranks"), " rank(s), ", result.at("device").get<std::string>()));
  line("steps/s", cat(with_digits("%.4g", number("steps_per_s")), "   (", result.at("steps"), " timed: median ",
                      with_digits("%.4g", seconds[seconds.size() / 2]), " s, ", with_digits("%.4g", seconds.front()),
                      " to ", with_digits("%.4g", seconds.back()), ")"));
  line("samples/s", with_digits("%.4g", number("samples_per_s")));
  line("TFLOP/s", cat(with_digits("%.4g", number("tflops_per_s")),
                      "   (counted: ", with_digits("%.4g", number("tflop_per_step")), " TFLOP a step)"));
  line("share of peak", cat(with_digits("%.1f", 100 * number("share_of_peak")), " %   (of ",
                            with_digits("%.4g", number("peak_tflops_per_s")), " TFLOP/s of a large matrix product)"));
  const bool on_cpu = number("peak_device_bytes") == 0;
  line("memory", cat(with_digits("%.0f", number("peak_host_bytes") / (1 << 20)), " MiB of the largest rank at its peak",
                     on_cpu ? "" : with_digits(", %.0f MiB on its GPU", number("peak_device_bytes") / (1 << 20))));
  if (!result.contains("pack_ratio")) return;
  line("pack", cat("of ", result.at("pack"), ": ", with_digits("%.3f", number("pack_ratio")),
                   " times the trial-steps per CPU-second of the same trials one after another (",
                   with_digits("%.3f", number("pack_wall_ratio")), " per second); a step is one trial's"));
}

}  // namespace

ExitCode run_bench(const Arguments& arguments, comm::Communicator& comm) {
  if (arguments.empty() || wants_help(arguments)) {
    Request request;
    OptionTable table;
    declare(table, request);
    if (comm.rank() == 0) std::cout << kUsage << table.help({""}) << "\nAll options of `ldmtune train --help` too.\n";
    return arguments.empty() ? ExitCode::bad_input : ExitCode::done;
  }
  Request request = parse_request(arguments);
  const pipeline::StopSignals signals;
  if (request.config.output.empty()) request.config.output = "unused";
  std::optional<train::SyntheticData> synthetic;
  if (request.config.data.empty()) {
    synthetic.emplace();
    use_synthetic_data(request, *synthetic, comm.size());
  }
  train::SharedSetup shared(request.config, comm);
  const auto gpu_world = train::gradient_world(shared.device, comm);
  train::Bench bench(request.config, static_cast<std::size_t>(request.pack), shared, gpu_world ? *gpu_world : comm);
  const Times times = time_steps(bench, request, comm, signals);
  const json result = figures(request, bench, times, shared.device, comm);
  pipeline::root_gives(comm, [&] {
    print(result);
    std::fflush(stdout);
    if (!request.json_file.empty()) store::write_json(request.json_file, result);
    return std::string();
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
