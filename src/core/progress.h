#pragma once
// A progress bar for long work: drawn on a terminal, one line now and then in a log file, silent on other ranks.

#include <chrono>
#include <cstdint>
#include <string>

namespace ldmtune {

/// Shows "label [####----] 30/100 30% 12.3 unit/s 0:05 left  note" on standard error.
class ProgressBar {
 public:
  /// `total` items of `unit` ("images"); a bar that is not `visible` (ranks above 0) prints nothing.
  ProgressBar(std::string label, std::int64_t total, std::string unit, bool visible);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` items in all (not since the last call); `note` stands at the end ("loss 0.0712").
  void update(std::int64_t done, const std::string& note = "");
  void finish();
  /// Where a resumed run starts, so that the rate and the time left count this run's items only.
  void start_from(std::int64_t done);

 private:
  void draw(bool last);

  std::string label_, unit_, note_;
  std::int64_t total_, done_ = 0, first_ = 0;
  bool visible_, terminal_, finished_ = false;
  std::chrono::steady_clock::time_point start_, drawn_;
};

/// "1:02:03" or "2:03".
std::string format_duration(double seconds);

}  // namespace ldmtune
