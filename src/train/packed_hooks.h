#pragma once
// Several trials in one forward: each trial's hooks see only their own rows.

#include <cstdint>
#include <memory>
#include <vector>

#include "model/hooks.h"

namespace ldmtune::train {

/// Rows [begin, end) of the batch belong to one trial.
struct TrialRows {
  std::int64_t begin = 0, end = 0;
  std::unique_ptr<model::ModelHooks> hooks;
};

class PackedHooks final : public model::ModelHooks {
 public:
  /// Rows of a batch of `rows` that belong to no trial see the untouched base.
  PackedHooks(std::vector<TrialRows> trials, std::int64_t rows) : trials_(std::move(trials)), rows_(rows) {}

  void begin_forward() override;
  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite& site) override;
  at::Tensor linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) override;

 private:
  /// The text context's rows by trial; kept while the forward lasts, so that a trial's hooks meet one tensor for all
  /// layers.
  at::Tensor rows_of(const at::Tensor& context, std::size_t trial, bool is_cross);

  bool is_full() const { return trials_.back().end == rows_; }

  std::vector<TrialRows> trials_;
  std::int64_t rows_;
  const void* text_context_ = nullptr;
  std::vector<at::Tensor> text_rows_;
};

/// The hooks of one trial that fills the batch of `rows`, or PackedHooks.
std::unique_ptr<model::ModelHooks> pack_hooks(std::vector<TrialRows> trials, std::int64_t rows);

}  // namespace ldmtune::train
