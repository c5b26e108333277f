#pragma once
// Learning-rate and clip-value schedules.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ldmtune::optim {

/// AUTOMATIC1111's piecewise-constant syntax "0.005:100, 1e-3:1000, 1e-5": `value:N` holds for update indices below N;
/// ":-1" or a bare value runs to the end.
class PiecewiseSchedule {
 public:
  /// Errors: InputError naming `option`, the piece and the syntax (not a number, NaN, negative, N not growing).
  PiecewiseSchedule(const std::string& text, const std::string& option);
  /// Value for the update with index 0, 1, 2 ...; at and after last_update() the last piece's value.
  double at(std::int64_t update) const;
  /// The last N where the schedule ends, none if it runs for ever.
  std::optional<std::int64_t> last_update() const;
  bool is_constant() const { return pieces_.size() == 1 && pieces_[0].until < 0; }

 private:
  struct Piece {
    double value;
    std::int64_t until;  ///< -1: for ever
  };
  std::vector<Piece> pieces_;
};

/// diffusers' shapes over it: constant, constant_with_warmup, linear, cosine. The multiplier for update index i is
/// diffusers' get_scheduler lambda at i.
class LearningRateSchedule {
 public:
  /// Errors: InputError naming the option: a shape that is not known (the names are listed), a warm-up below 0 or one
  /// that `constant` would ignore.
  LearningRateSchedule(const std::string& learning_rate, const std::string& lr_scheduler, std::int64_t warmup_steps,
                       std::int64_t max_train_steps);
  double at(std::int64_t update) const;
  /// Where the learning rate's own text ends training, none if it runs for ever.
  std::optional<std::int64_t> last_update() const { return base_.last_update(); }

 private:
  double multiplier(std::int64_t update) const;

  PiecewiseSchedule base_;
  std::string shape_;
  std::int64_t warmup_, total_;
};

}  // namespace ldmtune::optim
