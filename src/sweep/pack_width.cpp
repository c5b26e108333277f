#include "sweep/pack_width.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/options.h"
#include "pipeline/collective.h"
#include "pipeline/device.h"
#include "store/files.h"
#include "sweep/cost.h"
#include "sweep/memory_plan.h"
#include "sweep/memory_room.h"
#include "sweep/packs.h"
#include "sweep/plan.h"
#include "sweep/results.h"
#include "train/setup.h"

namespace ldmtune::sweep {
namespace {

constexpr std::size_t kMostAutomatic = 8;

std::string gigabytes(double bytes) { return format_number(std::round(bytes * 1e-7) * 1e-2) + " GB"; }

/// Trials of one pack_key that differ in more than their seeds: their packs may take different memory.
std::vector<const Trial*> settings_of(const std::vector<const Trial*>& group) {
  std::map<std::string, const Trial*> settings;
  for (const Trial* trial : group) settings.try_emplace(setting_key(*trial), trial);
  std::vector<const Trial*> trials;
  for (const auto& [key, trial] : settings) trials.push_back(trial);
  return trials;
}

/// A rank's share of what is free where it computes. Without the GPU that a trial asks for nothing is known of it.
double free_share(const TrainConfig& config, int ranks, const comm::Communicator& comm) {
  const int of_host = ranks == comm.size() ? comm.local_size() : ranks;
  try {
    const at::Device device = pipeline::choose_device(config.train.device, comm);
    const int devices = device.is_cpu() ? 1 : std::max<int>(1, at::accelerator::deviceCount());
    return room_of(device).free / ((of_host + devices - 1) / devices);
  } catch (const InputError&) {
    return std::numeric_limits<double>::max();
  }
}

std::size_t automatic_width(const Grid& grid, int ranks, double free) {
  if (const auto begun = recorded_width(grid)) {
    LDMTUNE_LOG(info) << "--pack auto: " << *begun << " at a time, as this sweep was begun";
    return *begun;
  }
  constexpr double kShare = 0.9;
  const std::size_t width = widest_pack(grid, ranks, kShare * free);
  LDMTUNE_LOG(info) << "--pack auto: " << width << " at a time, " << gigabytes(pack_bytes(grid, width, ranks))
                    << " a rank" << (free < 1e300 ? " of the " + gigabytes(free) + " that are free for it" : "");
  return width;
}

}  // namespace

double pack_bytes(const Grid& grid, std::size_t width, int ranks) {
  double most = 0;
  for (const auto& group : plan_packs(grid, std::numeric_limits<std::ptrdiff_t>::max())) {
    const TrainConfig& first = group.front()->config;
    const std::size_t at_a_time = train::changes_base(first) ? 1 : width;
    const DataSize data = data_size(first, base_unet_config(first.base));
    for (const Trial* trial : settings_of(group)) {
      const PackShape pack{std::min(at_a_time, group.size()), at_a_time};
      try {
        most = std::max(most, memory_plan(trial->config, planned_parameters(trial->config), data, ranks, pack).total());
      } catch (const InputError& error) {
        fail_input("trial ", trial->number, ": ", error.what());
      }
    }
  }
  return most;
}

std::size_t widest_pack(const Grid& grid, int ranks, double bytes) {
  std::size_t width = std::clamp<std::size_t>(grid.trials.size(), 1, kMostAutomatic);
  while (width > 1 && pack_bytes(grid, width, ranks) > bytes) --width;
  return width;
}

std::optional<std::size_t> recorded_width(const Grid& grid) {
  const std::filesystem::path file = grid.sweep.output / "sweep.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  const nlohmann::json plan = store::read_json(file);
  const auto found = plan.find("pack");
  if (found == plan.end() || !found->is_number_unsigned() || *found == 0) return std::nullopt;
  return found->get<std::size_t>();
}

std::size_t pack_width(const std::string& text, const Grid& grid, int ranks, comm::Communicator& comm) {
  if (text == "auto") {
    const std::vector<double> own{free_share(grid.trials.front().config, ranks, comm)};
    const std::vector<double> shares = comm.all_gather(own);
    const double least = *std::min_element(shares.begin(), shares.end());
    return std::stoull(pipeline::root_gives(comm, [&] { return std::to_string(automatic_width(grid, ranks, least)); }));
  }
  std::size_t width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  if (error != std::errc{} || end != text.data() + text.size() || width < 1 || width > 1024) {
    fail_input("option pack: expected auto or a number of trials from 1 to 1024, found '", text, "'");
  }
  return width;
}

}  // namespace ldmtune::sweep
