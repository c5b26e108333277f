#include "sweep/packs.h"

#include <algorithm>
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
