#pragma once
// What a finished training does at strengths between the untouched base and its end: fit against forgetting.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "core/error.h"
#include "core/options.h"

namespace ldmtune::train {

/// Numbers of "0,0.5,1". Errors: InputError naming `option`: none, not finite, one twice.
std::vector<double> parse_strengths(const std::string& text, const std::string& option);

/// Loss of one set of images at one strength.
struct StrengthLoss {
  double strength = 0;
  std::string kind;  ///< "heldout", "train", "adjacent", "adjacent_trigger", "test"
  std::vector<std::uint64_t> sample_ids;
  std::vector<std::string> sources;
  double mean = 0, drift = 0;
  std::vector<double> by_image, drift_by_image;  ///< the latter empty where drift is not measured
};

/// Measures a run's newest checkpoint (or a checkpoint folder) on the run's validation sets and test split, at the same
/// noise and timesteps as its own validation: strength 1 gives the losses that ended the run, 0 those of the untouched
/// base. A hypernetwork or LoRA scales what it adds; of dreambooth the weights are taken between the base's and the
/// trained ones; of textual inversion the vectors between their initial and the trained ones, so that its strength 0 is
/// where the new word began. `overrides` replace options of the run (validation.adjacent, base ...). A collective.
/// With a progress bar; gives nothing where a stop signal came.
/// Errors: InputError naming the checkpoint or option: no checkpoint, another base than the one trained on.
std::vector<StrengthLoss> measure_strengths(const std::filesystem::path& run, const std::vector<double>& strengths,
                                            const std::vector<OptionSetting>& overrides, comm::Communicator& comm);

/// As CSV: strength, kind, sample_id, source, loss, drift; a row an image.
std::string strengths_csv(const std::vector<StrengthLoss>& losses);

}  // namespace ldmtune::train
