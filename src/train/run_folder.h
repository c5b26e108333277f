#pragma once
// The run folder: who holds it, what it was started with, where its checkpoints lie.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace ldmtune::train {

/// Refuses a folder that is held by a living run and takes over one whose heartbeat is stale or that the same Slurm job
/// left. Whoever was taken over finds that out at its next heartbeat: a node may be lost to Slurm and still run.
class RunLock {
 public:
  /// Errors: InputError naming holder and remedy.
  explicit RunLock(const std::filesystem::path& run_folder,
                   std::chrono::seconds beat_interval = std::chrono::seconds(10));
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Renews the heartbeat when the last one is older than the interval. False: another run has taken the folder over,
  /// and this one must not write to it any more.
  [[nodiscard]] bool beat();
  /// Whether the lock's file names another run by now. A file that is missing or unreadable names none.
  bool is_lost() const;

 private:
  void write() const;

  std::filesystem::path file_;
  std::chrono::seconds beat_interval_;
  std::string token_;  ///< tells this lock from all others
  std::chrono::steady_clock::time_point last_beat_;
};

/// True if the folder holds a run (its config.cfg).
bool holds_run(const std::filesystem::path& run_folder);

/// checkpoints/step-00000300
std::filesystem::path checkpoint_folder(const std::filesystem::path& run_folder, std::int64_t step);

/// Versions, git commit, hashes, ranks and hosts for run.json.
nlohmann::json describe_program();

}  // namespace ldmtune::train
