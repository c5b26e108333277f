#include "train/packed_hooks.h"

#include <utility>

namespace ldmtune::train {

void PackedHooks::begin_forward() {
  text_context_ = nullptr;
  text_rows_.clear();
  for (TrialRows& trial : trials_) trial.hooks->begin_forward();
}

at::Tensor PackedHooks::rows_of(const at::Tensor& context, std::size_t trial, bool is_cross) {
  if (!is_cross) return context.slice(0, trials_[trial].begin, trials_[trial].end);
  if (text_context_ != context.unsafeGetTensorImpl()) {
    text_context_ = context.unsafeGetTensorImpl();
    text_rows_.clear();
    for (const TrialRows& rows : trials_) text_rows_.push_back(context.slice(0, rows.begin, rows.end));
  }
  return text_rows_[trial];
}

model::KeyValueContext PackedHooks::attention_context(const at::Tensor& context, const model::AttentionSite& site) {
  std::vector<at::Tensor> keys, values;
  for (std::size_t i = 0; i < trials_.size(); ++i) {
    model::KeyValueContext part = trials_[i].hooks->attention_context(rows_of(context, i, site.is_cross), site);
    keys.push_back(std::move(part.key));
    values.push_back(std::move(part.value));
  }
  if (!is_full()) {
    keys.push_back(context.slice(0, trials_.back().end, rows_));
    values.push_back(keys.back());
  }
  return {at::cat(keys), at::cat(values)};
}

at::Tensor PackedHooks::linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) {
  std::vector<at::Tensor> outputs;
  bool changed = false;
  for (const TrialRows& trial : trials_) {
    const at::Tensor own = output.slice(0, trial.begin, trial.end);
    outputs.push_back(trial.hooks->linear(input.slice(0, trial.begin, trial.end), own, name));
    changed = changed || !outputs.back().is_same(own);
  }
  // Hypernetworks and embeddings change no linear: joining the rows again would copy every one of them.
  if (!changed) return output;
  if (!is_full()) outputs.push_back(output.slice(0, trials_.back().end, rows_));
  return at::cat(outputs);
}

std::unique_ptr<model::ModelHooks> pack_hooks(std::vector<TrialRows> trials, std::int64_t rows) {
  if (trials.size() == 1 && trials.front().end == rows) return std::move(trials.front().hooks);
  return std::make_unique<PackedHooks>(std::move(trials), rows);
}

}  // namespace ldmtune::train
