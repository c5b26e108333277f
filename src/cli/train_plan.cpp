#include "cli/train_plan.h"

#include <cstdio>
#include <iostream>
#include <map>

#include "core/error.h"
#include "data/dataset_mix.h"
#include "model/base_outline.h"
#include "pipeline/device.h"
#include "sweep/memory_plan.h"
#include "sweep/memory_room.h"
#include "sweep/plan.h"
#include "train/setup.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

constexpr double kMiB = 1 << 20;

/// 1536 MiB as "1,536.0".
std::string mebibytes(double bytes) {
  char text[48];
  std::snprintf(text, sizeof text, "%.1f", bytes / kMiB);
  std::string digits = text;
  for (auto i = static_cast<std::ptrdiff_t>(digits.find('.')) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  }
  return digits;
}

void line(const std::string& name, double bytes, const std::string& note = "") {
  char text[200];
  std::snprintf(text, sizeof text, "  %-44s %12s MiB", name.c_str(), mebibytes(bytes).c_str());
  std::cout << text << (note.empty() ? "" : "   " + note) << "\n";
}

void print_parameters(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained) {
  std::map<std::string, std::int64_t> groups;
  std::int64_t total = 0;
  for (const optim::ParameterSpec& parameter : trained) {
    std::int64_t elements = 1;
    for (const std::int64_t extent : parameter.shape) elements *= extent;
    groups[parameter.group] += elements;
    total += elements;
  }
  std::cout << config.method << " trains " << total << " parameters\n";
  for (const auto& [group, elements] : groups) {
    if (groups.size() > 1) std::cout << "  " << group << ": " << elements << "\n";
  }
}

void print_memory(const TrainConfig& config, const sweep::MemoryPlan& plan, const sweep::DataSize& data, int ranks) {
  std::cout << "Memory of " << (ranks > 1 ? "each of " + std::to_string(ranks) + " ranks" : std::string("the process"))
            << ", latents " << data.latent_height << " x " << data.latent_width << ", micro-batch "
            << config.train.micro_batch_size << ", mixed_precision " << config.train.mixed_precision
            << (config.train.gradient_checkpointing ? ", gradient checkpointing" : "") << ":\n";
  for (const sweep::MemoryItem& item : plan.always) line(item.name, item.bytes);
  for (const sweep::MemoryItem& item : plan.in_turn) {
    if (item.name == "training step") {
      line("one of: training step: activations", plan.kept_for_backward);
      line("        and temporary buffers", item.bytes - plan.kept_for_backward);
    } else {
      line("     or: " + item.name, item.bytes);
    }
  }
  line("total at the peak", plan.total());
}

/// Ranks that share what a device has: those of this host, or as many as are asked about.
void print_verdict(const sweep::MemoryPlan& plan, const sweep::MemoryRoom& room, int sharing) {
  const double needed = plan.total() * sharing;
  if (sharing > 1) line("all " + std::to_string(sharing) + " ranks", needed);
  line(room.what, room.bytes, mebibytes(room.free) + " MiB of it free now");
  if (needed <= room.free) {
    std::cout << "It fits.\n";
  } else if (needed <= room.bytes) {
    std::cout << "It fits only when others leave " << mebibytes(needed - room.free) << " MiB.\n";
  } else {
    std::cout << "It does not fit: " << mebibytes(needed - room.bytes)
              << " MiB are missing. Less take train.gradient_checkpointing, a smaller train.micro_batch_size or "
                 "validation.batch_size, train.mixed_precision, fewer ranks on a machine.\n";
  }
}

}  // namespace

void print_train_plan(const TrainConfig& given, int ranks, comm::Communicator& comm) {
  const TrainConfig config = train::checked_config(given, ranks);
  if (model::is_single_file(config.base)) model::expect_tokenizer(config.base, config.base_options.tokenizer);
  const at::Device device = pipeline::choose_device(config.train.device, comm);
  const data::DatasetMix dataset(config.data, /*verify_below=*/0);  // says what is wrong with it
  const sweep::DataSize data = sweep::data_size(config, sweep::base_unet_config(config.base));
  const std::vector<optim::ParameterSpec> trained = sweep::planned_parameters(config);
  const sweep::MemoryPlan plan = sweep::memory_plan(config, trained, data, ranks);
  if (comm.rank() != 0) return;
  print_parameters(config, trained);
  print_memory(config, plan, data, ranks);
  const int of_host = ranks == comm.size() ? comm.local_size() : ranks;
  print_verdict(plan, sweep::room_of(device), device.is_cpu() ? of_host : 1);
}

}  // namespace ldmtune::cli
