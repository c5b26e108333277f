#include "train/drawing_lock.h"

#include <chrono>

#include "core/error.h"
#include "core/log.h"

namespace ldmtune::train {
namespace {

using namespace std::chrono_literals;
constexpr auto kRenewal = 10s;
constexpr auto kPatience = 2s;
// Two that found no lock both write one, and the later one counts: long enough for the earlier to see it.
constexpr auto kSettling = 300ms;

}  // namespace

DrawingLock::DrawingLock(const std::filesystem::path& folder, const std::function<bool()>& is_done) {
  bool told = false;
  while (!is_done()) {
    if (try_to_take(folder)) {
      renewal_ = std::thread([this] { renew(); });
      return;
    }
    if (!told) LDMTUNE_LOG(info) << "Another run draws into " << folder.string() << "; waiting for it";
    told = true;
    std::this_thread::sleep_for(kPatience);
  }
}

bool DrawingLock::try_to_take(const std::filesystem::path& folder) {
  try {
    lock_.emplace(folder, 0s);
  } catch (const InputError&) {
    return false;
  }
  std::this_thread::sleep_for(kSettling);
  if (lock_->beat()) return true;
  lock_.reset();
  return false;
}

void DrawingLock::renew() {
  std::unique_lock guard(mutex_);
  while (!ends_.wait_for(guard, kRenewal, [this] { return is_ending_; })) {
    try {
      // One that was taken over is drawn twice, from the same numbers.
      static_cast<void>(lock_->beat());
    } catch (const std::exception&) {
      // A file system that is slow for once; the next renewal may succeed.
    }
  }
}

DrawingLock::~DrawingLock() {
  if (!renewal_.joinable()) return;
  {
    const std::lock_guard guard(mutex_);
    is_ending_ = true;
  }
  ends_.notify_one();
  renewal_.join();
}

}  // namespace ldmtune::train
