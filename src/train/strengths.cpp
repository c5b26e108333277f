#include "train/strengths.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "core/log.h"
#include "core/progress.h"
#include "store/safetensors.h"
#include "train/checkpoint.h"
#include "train/csv_log.h"
#include "train/run.h"
#include "train/setup.h"
#include "train/signals.h"
#include "train/trial.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

fs::path checkpoint_of(const fs::path& run) {
  if (!fs::is_directory(run)) fail_input(run.string(), ": expected a run folder or a checkpoint folder, found none");
  if (!fs::exists(run / "checkpoints")) return run;
  const fs::path latest = latest_checkpoint(run);
  if (latest.empty()) fail_input(run.string(), ": this run has no complete checkpoint yet");
  return latest;
}

/// The run's options as its checkpoint holds them, without what only training needs.
TrainConfig config_of(const CheckpointState& state, const fs::path& checkpoint,
                      const std::vector<OptionSetting>& overrides, int ranks) {
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const auto& [name, text] : state.config) {
    if (table.contains(name)) table.set({name, text, (checkpoint / "state.json").string()});
  }
  table.set(overrides);
  config.dreambooth.with_prior_preservation = false;
  config.hypernetwork.init_from.clear();
  config.lora.init_from.clear();
  config.dreambooth.init_from.clear();
  config.train.max_tflops = 0;
  // Nothing trains, so that no run's leaves limit the ranks.
  config.train.micro_batch_size = 1;
  config.train.global_batch_size = static_cast<std::int64_t>(std::bit_ceil(static_cast<unsigned>(ranks)));
  return config;
}

/// What a strength means for the trial: how strongly its hooks act, or where between two states its weights lie.
class Dial {
 public:
  Dial(Trial& trial, const std::string& method, const fs::path& checkpoint)
      : trial_(trial), scales_hooks_(method == "hypernetwork" || method == "lora") {
    const at::NoGradGuard no_grad;
    start_ = trial.arena->parameters().clone();
    end_ = at::zeros_like(start_);
    // With optim.use_ema the average is what was measured.
    const bool averaged = fs::exists(checkpoint / "ema.safetensors");
    const fs::path file = checkpoint / (averaged ? "ema.safetensors" : "parameters.safetensors");
    const store::TensorMap trained = store::read_safetensors(file).tensors;
    for (auto& [name, view] : trial.arena->views_of(end_)) {
      const auto found = trained.find(name);
      if (found == trained.end() || found->second.sizes() != view.sizes()) {
        fail_input(file.string(), ": ", name, " of shape ", view.sizes(), " is missing; is this the run's checkpoint?");
      }
      view.copy_(found->second);
    }
    if (scales_hooks_) trial.arena->parameters().copy_(end_);
  }

  void turn_to(double strength) {
    strength_ = strength;
    if (scales_hooks_) return;
    const at::NoGradGuard no_grad;
    at::Tensor weights = trial_.arena->parameters();
    if (strength == 0 || strength == 1) {
      weights.copy_(strength == 0 ? start_ : end_);
    } else {
      weights.copy_(start_.lerp(end_, strength));
    }
    trial_.arena->refresh_copies();
  }

  std::unique_ptr<model::ModelHooks> hooks() const {
    adapt::ForwardContext context;
    if (scales_hooks_) context.strength = strength_;
    return trial_.adapter->hooks(*trial_.arena, std::move(context));
  }

 private:
  Trial& trial_;
  bool scales_hooks_;
  double strength_ = 1;
  at::Tensor start_, end_;  ///< flat, as the arena
};

StrengthLoss described(double strength, const ValidationSet& set, const ValidationLoss& loss) {
  StrengthLoss result{strength, set.kind, {}, {}, loss.mean, loss.drift, loss.by_image, loss.drift_by_image};
  for (const std::size_t sample : set.samples) {
    result.sample_ids.push_back(set.dataset->sample_key(sample));
    result.sources.push_back(set.dataset->source(sample));
  }
  return result;
}

}  // namespace

std::vector<double> parse_strengths(const std::string& text, const std::string& option) {
  std::vector<double> strengths;
  for (const std::string& piece : split_list(text, ',')) {
    char* end = nullptr;
    const double value = std::strtod(piece.c_str(), &end);
    if (piece.empty() || *end != '\0' || !std::isfinite(value)) {
      fail_input("option ", option, ": expected numbers separated by commas, such as 0,0.5,1, found '", piece, "'");
    }
    if (std::find(strengths.begin(), strengths.end(), value) != strengths.end()) {
      fail_input("option ", option, ": ", piece, " stands there twice");
    }
    strengths.push_back(value);
  }
  if (strengths.empty()) fail_input("option ", option, ": expected numbers such as 0,0.5,1, found none");
  return strengths;
}

std::vector<StrengthLoss> measure_strengths(const fs::path& run, const std::vector<double>& strengths,
                                            const std::vector<OptionSetting>& overrides, comm::Communicator& comm) {
  const fs::path checkpoint = checkpoint_of(run);
  const CheckpointState state = read_checkpoint_state(checkpoint);
  const TrainConfig config = config_of(state, checkpoint, overrides, comm.size());
  SharedSetup shared(config, comm);
  if (shared.base.sha256 != state.base_sha256) {
    fail_input("option base: ", checkpoint.string(), " was trained on ", state.base_name, " (",
               state.base_sha256.substr(0, 12), "), but ", config.base.string(), " is another (",
               shared.base.sha256.substr(0, 12), ")");
  }
  TrialSetup setup(config, shared, comm.size());
  const std::vector<ValidationSet> sets = setup.all_sets();
  Trial trial = make_trial(setup.config, shared.base, setup.source, setup.max_train_steps, comm, shared.device);
  // After the tokenizer knows new words, before anything changes the base.
  for (const ValidationSet& set : sets) {
    if (set.measures_drift) shared.base_measurement(set);
  }
  Dial dial(trial, setup.config.method, checkpoint);
  const StopSignals signals;
  std::vector<StrengthLoss> found;
  ProgressBar bar("strengths", static_cast<std::int64_t>(strengths.size()), "strengths", comm.rank() == 0);
  for (const double strength : strengths) {
    dial.turn_to(strength);
    for (const ValidationSet& set : sets) {
      const ValidationLoss loss = shared.validator.evaluate(
          set, [&] { return dial.hooks(); },
          {.in_text_encoder = trial.adapter->trains_text_encoder(),
           .base = set.measures_drift ? &shared.base_measurement(set).predictions : nullptr});
      found.push_back(described(strength, set, loss));
    }
    if (comm.any(StopSignals::received() != 0)) return {};
    bar.update(static_cast<std::int64_t>(found.size() / sets.size()));
  }
  bar.finish();
  return found;
}

std::string strengths_csv(const std::vector<StrengthLoss>& losses) {
  std::string text = "strength,kind,sample_id,source,loss,drift\n";
  for (const StrengthLoss& set : losses) {
    for (std::size_t i = 0; i < set.by_image.size(); ++i) {
      text += format_number(set.strength) + "," + set.kind + "," + std::to_string(set.sample_ids[i]) + "," +
              csv_field(set.sources[i]) + "," + format_number(set.by_image[i]) + "," +
              (set.drift_by_image.empty() ? "" : format_number(set.drift_by_image[i])) + "\n";
    }
  }
  return text;
}

}  // namespace ldmtune::train
