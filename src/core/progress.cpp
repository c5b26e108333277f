#include "core/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace ldmtune {
namespace {

constexpr int kBarWidth = 24;
// A terminal is redrawn often; a log file gets a line now and then.
constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::seconds kFileInterval{15};

}  // namespace

std::string format_duration(double seconds) {
  const long total = std::isfinite(seconds) ? std::lround(std::max(0.0, seconds)) : 0;
  char text[40];
  if (total >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", total / 3600, total / 60 % 60, total % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", total / 60, total % 60);
  }
  return text;
}

ProgressBar::ProgressBar(std::string label, std::int64_t total, std::string unit, bool visible)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      visible_(visible),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::start_from(std::int64_t done) { first_ = done_ = done; }

void ProgressBar::update(std::int64_t done, const std::string& note) {
  done_ = done;
  note_ = note;
  const auto now = std::chrono::steady_clock::now();
  const auto waited = now - drawn_;
  if (terminal_ ? waited >= kTerminalInterval : waited >= kFileInterval) {
    drawn_ = now;
    draw(false);
  }
}

void ProgressBar::finish() {
  if (finished_) return;
  finished_ = true;
  draw(true);
}

void ProgressBar::draw(bool last) {
  if (!visible_) return;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done_ - first_) / seconds : 0;
  const double share = total_ > 0 ? std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_)) : 1.0;
  const int filled = static_cast<int>(share * kBarWidth);
  std::string line = label_ + " [" + std::string(static_cast<std::size_t>(filled), '#') +
                     std::string(static_cast<std::size_t>(kBarWidth - filled), '-') + "] ";
  char text[120];
  std::snprintf(text, sizeof text, "%lld/%lld %3.0f%% %.4g %s/s ", static_cast<long long>(done_),
                static_cast<long long>(total_), share * 100, rate, unit_.c_str());
  line += text;
  line += last ? format_duration(seconds) + " in all"
               : (rate > 0 ? format_duration(static_cast<double>(total_ - done_) / rate) + " left" : "");
  if (!note_.empty()) line += "  " + note_;
  std::fprintf(stderr, terminal_ ? "\r\033[K%s%s" : "%s%s", line.c_str(), terminal_ && !last ? "" : "\n");
  std::fflush(stderr);
}

}  // namespace ldmtune
