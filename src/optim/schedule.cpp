#include "optim/schedule.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <string_view>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

constexpr std::array<std::string_view, 4> kShapes{"constant", "constant_with_warmup", "linear", "cosine"};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

template <class Number>
bool parse_number(std::string_view text, Number& number) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

[[noreturn]] void fail_piece(const std::string& option, std::string_view piece, const std::string& found) {
  fail_input(option, ": '", piece, "' ", found,
             "; expected numbers of 0 or more, each but the last with the update it ends at, as in "
             "\"0.005:100, 1e-3:1000, 1e-5\"");
}

}  // namespace

PiecewiseSchedule::PiecewiseSchedule(const std::string& text, const std::string& option) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view piece = trimmed(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    if (piece.empty()) continue;  // as the peer reads a comma at the end
    const auto colon = piece.find(':');
    Piece parsed{0, -1};
    if (!parse_number(trimmed(piece.substr(0, colon)), parsed.value)) fail_piece(option, piece, "is not a number");
    if (!std::isfinite(parsed.value)) fail_piece(option, piece, "is not finite");
    if (parsed.value < 0) fail_piece(option, piece, "is negative");
    if (colon != std::string_view::npos) {
      const bool is_integer = parse_number(trimmed(piece.substr(colon + 1)), parsed.until);
      if (!is_integer || parsed.until < -1 || parsed.until == 0) {
        fail_piece(option, piece, "does not end at an update of 1 or more, or -1");
      }
    }
    if (!pieces_.empty() && pieces_.back().until < 0) {
      fail_piece(option, piece, "is never reached: the piece before it runs to the end");
    }
    if (!pieces_.empty() && parsed.until >= 0 && parsed.until <= pieces_.back().until) {
      fail_piece(option, piece, cat("does not end after the piece before it (", pieces_.back().until, ")"));
    }
    pieces_.push_back(parsed);
  }
  if (pieces_.empty()) fail_piece(option, text, "holds no value");
}

double PiecewiseSchedule::at(std::int64_t update) const {
  for (const Piece& piece : pieces_) {
    if (piece.until < 0 || update < piece.until) return piece.value;
  }
  return pieces_.back().value;
}

std::optional<std::int64_t> PiecewiseSchedule::last_update() const {
  if (pieces_.back().until < 0) return std::nullopt;
  return pieces_.back().until;
}

LearningRateSchedule::LearningRateSchedule(const std::string& learning_rate, const std::string& lr_scheduler,
                                           std::int64_t warmup_steps, std::int64_t max_train_steps)
    : base_(learning_rate, "optim.learning_rate"),
      shape_(lr_scheduler),
      warmup_(warmup_steps),
      total_(max_train_steps) {
  if (std::find(kShapes.begin(), kShapes.end(), shape_) == kShapes.end()) {
    fail_input("optim.lr_scheduler: expected constant, constant_with_warmup, linear or cosine, found '", shape_, "'");
  }
  if (warmup_ < 0) fail_input("optim.lr_warmup_steps: expected 0 or more updates, found ", warmup_);
  if (shape_ == "constant" && warmup_ > 0) {
    fail_input("optim.lr_warmup_steps is ", warmup_,
               ", but optim.lr_scheduler = constant has no warm-up: expected 0, or lr_scheduler = "
               "constant_with_warmup, linear or cosine");
  }
}

double LearningRateSchedule::multiplier(std::int64_t update) const {
  if (shape_ == "constant") return 1;
  if (update < warmup_) return static_cast<double>(update) / static_cast<double>(warmup_);
  const auto span = static_cast<double>(std::max<std::int64_t>(1, total_ - warmup_));
  if (shape_ == "linear") return std::max(0.0, static_cast<double>(total_ - update) / span);
  if (shape_ == "cosine") {
    const double progress = static_cast<double>(update - warmup_) / span;
    return std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * progress)));
  }
  return 1;
}

double LearningRateSchedule::at(std::int64_t update) const { return base_.at(update) * multiplier(update); }

}  // namespace ldmtune::optim
