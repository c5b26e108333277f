#include "train/run_folder.h"

#include <ATen/ATen.h>
#include <signal.h>
#include <torch/version.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "store/files.h"

#ifndef LDMTUNE_GIT_COMMIT
#define LDMTUNE_GIT_COMMIT "unknown"
#endif

namespace ldmtune::train {
namespace {

// Clocks of cluster nodes differ and file systems are late; a living run beats a dozen times in this span.
constexpr std::int64_t kStaleSeconds = 120;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

nlohmann::json holder() {
  return {{"host", host_name()},
          {"pid", getpid()},
          {"slurm_job", environment("SLURM_JOB_ID")},
          {"slurm_array_job", environment("SLURM_ARRAY_JOB_ID")},
          {"slurm_array_task", environment("SLURM_ARRAY_TASK_ID")},
          {"heartbeat", static_cast<std::int64_t>(std::time(nullptr))}};
}

bool same_slurm_job(const nlohmann::json& a, const nlohmann::json& b) {
  return !a.value("slurm_job", "").empty() && a.value("slurm_job", "") == b.value("slurm_job", "") &&
         a.value("slurm_array_task", "") == b.value("slurm_array_task", "");
}

/// A killed process whose parent has not asked for it yet (a zombie) holds nothing any more.
bool is_running(pid_t pid) {
  if (pid <= 0 || kill(pid, 0) != 0) return false;
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  const std::size_t name_end = text.rfind(')');
  return name_end == std::string::npos || text.compare(name_end, 3, ") Z") != 0;
}

/// A lock that is missing or was cut by a crash names nobody; its missing heartbeat is stale.
nlohmann::json read_lock(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return nlohmann::json::object();
  try {
    const nlohmann::json lock = store::read_json(file);
    if (lock.is_object()) return lock;
  } catch (const Error&) {
  }
  return nlohmann::json::object();
}

std::string new_token() {
  static std::atomic<int> count{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return cat(host_name(), "-", getpid(), "-", std::chrono::nanoseconds(now).count(), "-", count++);
}

/// Empty if the lock's holder is alive, else why it may be taken over.
std::string takeover_reason(const nlohmann::json& lock) {
  const nlohmann::json me = holder();
  if (same_slurm_job(lock, me)) return "it is the same Slurm job";
  const bool same_host = lock.value("host", "") == me.value("host", "");
  const auto pid = static_cast<pid_t>(lock.value("pid", 0));
  if (same_host && (pid == getpid() || !is_running(pid))) return "its process has ended";
  if (me.value("heartbeat", std::int64_t{0}) - lock.value("heartbeat", std::int64_t{0}) > kStaleSeconds) {
    return cat("its heartbeat is older than ", kStaleSeconds, " s");
  }
  return "";
}

}  // namespace

RunLock::RunLock(const std::filesystem::path& run_folder, std::chrono::seconds beat_interval)
    : file_(run_folder / "lock.json"), beat_interval_(beat_interval), token_(new_token()) {
  if (std::filesystem::exists(file_)) {
    const nlohmann::json lock = read_lock(file_);
    const std::string reason = takeover_reason(lock);
    if (reason.empty()) {
      fail_input(run_folder.string(), ": held by another run on ", lock.value("host", "?"), ", pid ",
                 lock.value("pid", 0), "; wait for it, stop it, or choose another output folder");
    }
    LDMTUNE_LOG(info) << "Taking over " << run_folder.string() << " from " << lock.value("host", "?") << ", pid "
                      << lock.value("pid", 0) << ": " << reason;
  }
  write();
}

RunLock::~RunLock() {
  if (is_lost()) return;
  std::error_code ignored;
  std::filesystem::remove(file_, ignored);
}

void RunLock::write() const {
  nlohmann::json lock = holder();
  lock["token"] = token_;
  store::write_json(file_, lock);
}

bool RunLock::is_lost() const {
  const nlohmann::json lock = read_lock(file_);
  return !lock.empty() && lock.value("token", "") != token_;
}

bool RunLock::beat() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_beat_ < beat_interval_) return true;
  last_beat_ = now;
  if (is_lost()) return false;
  write();
  return true;
}

bool holds_run(const std::filesystem::path& run_folder) { return std::filesystem::exists(run_folder / "config.cfg"); }

std::filesystem::path checkpoint_folder(const std::filesystem::path& run_folder, std::int64_t step) {
  char name[40];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return run_folder / "checkpoints" / name;
}

nlohmann::json describe_program() {
  return {{"ldmtune", LDMTUNE_VERSION},
          {"git_commit", LDMTUNE_GIT_COMMIT},
          {"libtorch", TORCH_VERSION},
          {"host", host_name()}};
}

}  // namespace ldmtune::train
