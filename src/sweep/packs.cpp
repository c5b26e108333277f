#include "sweep/packs.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <fstream>
#include <limits>
#include <utility>

#include "core/log.h"
#include "sweep/plan.h"
#include "sweep/trials.h"
#include "train/setup.h"
#include "train/signals.h"

namespace ldmtune::sweep {
namespace {

using Queue = std::vector<const Trial*>;

/// Trials by pack_key, keys in the order in which they come.
std::vector<Queue> groups_of(const Grid& grid) {
  std::vector<std::pair<std::string, Queue>> groups;
  for (const Trial& trial : grid.trials) {
    const std::string key = train::pack_key(trial.config);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& known) { return known.first == key; });
    if (group == groups.end()) group = groups.insert(groups.end(), {key, {}});
    group->second.push_back(&trial);
  }
  std::vector<Queue> queues;
  for (auto& [key, queue] : groups) queues.push_back(std::move(queue));
  return queues;
}

/// MemAvailable of /proc/meminfo in bytes; without it no limit is known.
std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  for (std::uint64_t kib = 0; file >> word;) {
    if (word == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return std::numeric_limits<std::uint64_t>::max();
}

std::size_t automatic_width(const Grid& grid) {
  constexpr std::size_t kMost = 8;
  std::uint64_t largest = 1;
  for (const Trial& trial : grid.trials) {
    // Weights, two moments, and the leaves' partial sums.
    const std::uint64_t leaves = static_cast<std::uint64_t>(trial.config.train.global_batch_size) /
                                 static_cast<std::uint64_t>(trial.config.train.micro_batch_size);
    const std::uint64_t buffers = 4 + static_cast<std::uint64_t>(std::bit_width(leaves));
    largest = std::max(largest, buffers * 4 * static_cast<std::uint64_t>(trainable_parameters(trial.config)));
  }
  const auto fitting = static_cast<std::size_t>(std::min<std::uint64_t>(kMost, available_memory() / 2 / largest));
  return std::clamp<std::size_t>(fitting, 1, std::min(kMost, grid.trials.size()));
}

/// Trains one queue. Counts failures.
ExitCode run_queue(const Grid& grid, const Queue& queue, std::size_t width, comm::Communicator& comm,
                   const PackTrainer& trainer, const std::function<void()>& after_each, std::size_t& failures) {
  Queue members;
  std::vector<TrainConfig> configs;
  for (const Trial* trial : queue) {
    std::optional<TrainConfig> config = config_to_train(grid, *trial, comm);
    if (!config) continue;
    members.push_back(trial);
    configs.push_back(std::move(*config));
  }
  if (configs.empty()) return ExitCode::done;
  return trainer(configs, width, comm, [&](std::size_t index, const std::exception* error) {
    if (error) ++failures;
    if (comm.rank() != 0) return;
    if (error) {
      const auto* known = dynamic_cast<const Error*>(error);
      record_failure(configs[index].output, *members[index], error->what(), known ? known->code() : ExitCode::failed);
    }
    if (after_each) after_each();
  });
}

}  // namespace

std::vector<Queue> plan_packs(const Grid& grid, std::size_t width) {
  std::vector<Queue> packs;
  for (const Queue& queue : groups_of(grid)) {
    for (std::size_t begin = 0; begin < queue.size(); begin += width) {
      const std::size_t end = std::min(queue.size(), begin + width);
      packs.emplace_back(queue.begin() + static_cast<std::ptrdiff_t>(begin),
                         queue.begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  return packs;
}

std::size_t parse_pack_width(const std::string& text, const Grid& grid) {
  if (text == "auto") return automatic_width(grid);
  std::size_t width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  if (error != std::errc{} || end != text.data() + text.size() || width < 1 || width > 1024) {
    fail_input("option pack: expected auto or a number of trials from 1 to 1024, found '", text, "'");
  }
  return width;
}

ExitCode run_packs(const Grid& grid, std::size_t width, comm::Communicator& comm, const PackTrainer& trainer,
                   std::optional<std::int64_t> only, const std::function<void()>& after_each) {
  std::vector<Queue> queues = groups_of(grid);
  if (only) {
    const std::vector<Queue> packs = plan_packs(grid, width);
    if (*only < 0 || *only >= static_cast<std::int64_t>(packs.size())) {
      fail_input("sweep pack: expected a number from 0 to ", packs.size() - 1, ", found ", *only);
    }
    queues = {packs[static_cast<std::size_t>(*only)]};
  }
  const train::StopSignals signals;  // between packs too
  std::size_t failures = 0;
  for (const Queue& queue : queues) {
    if (run_queue(grid, queue, width, comm, trainer, after_each, failures) == ExitCode::interrupted) {
      return ExitCode::interrupted;
    }
    if (&queue != &queues.back() && comm.any(train::StopSignals::received() != 0)) return ExitCode::interrupted;
  }
  return failures == 0 ? ExitCode::done : ExitCode::failed;
}

std::string packs_table(const Grid& grid, std::size_t width) {
  std::vector<std::vector<std::string>> rows{{"pack", "trials"}};
  const std::vector<Queue> packs = plan_packs(grid, width);
  for (std::size_t i = 0; i < packs.size(); ++i) {
    std::string numbers;
    for (const Trial* trial : packs[i]) numbers += (numbers.empty() ? "" : " ") + std::to_string(trial->number);
    rows.push_back({std::to_string(i), numbers});
  }
  return format_table(rows);
}

}  // namespace ldmtune::sweep
