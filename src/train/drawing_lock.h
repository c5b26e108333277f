#pragma once
// Who draws a dataset: trials of a sweep that start together want the same pictures.

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "train/run_folder.h"

namespace ldmtune::train {

/// Held from its construction to its destruction, unless `is_done` came true first; renews itself meanwhile.
class DrawingLock {
 public:
  /// Waits while another living run holds `folder`, which exists.
  DrawingLock(const std::filesystem::path& folder, const std::function<bool()>& is_done);
  ~DrawingLock();
  DrawingLock(const DrawingLock&) = delete;
  DrawingLock& operator=(const DrawingLock&) = delete;

  bool is_held() const { return lock_.has_value(); }

 private:
  bool try_to_take(const std::filesystem::path& folder);
  void renew();

  std::optional<RunLock> lock_;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool is_ending_ = false;
  std::thread renewal_;
};

}  // namespace ldmtune::train
