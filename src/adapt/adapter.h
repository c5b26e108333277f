#pragma once
// What trains: parameters in an arena, and hooks that bring them into the model.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "model/hooks.h"
#include "optim/arena.h"

namespace ldmtune::adapt {

/// One forward of one trial's rows.
struct ForwardContext {
  bool training = false;   ///< dropout is active
  std::uint64_t seed = 0;  ///< the trial's seed: keys dropout masks
  std::uint32_t dataset = 0;
  std::vector<std::uint64_t> draws;  ///< identity of each row: keys dropout masks (empty when not training)
  double strength = 1.0;             ///< hypernetwork multiplier
};

class Adapter {
 public:
  virtual ~Adapter() = default;

  /// In arena order.
  virtual std::vector<optim::ParameterSpec> parameters() const = 0;
  /// Initial values, keyed by (seed, parameter name) only.
  virtual void initialize(const optim::Arena& arena, std::uint64_t seed) const = 0;
  /// Makes tensors of the base itself parameters of the arena (dreambooth); called once, after initialize.
  virtual void bind(optim::Arena& /*arena*/) const {}
  /// Whether training changes the base's own weights: what the untouched base does must be found out before.
  virtual bool changes_base() const { return false; }
  /// Hooks for one forward; they read the arena's parameters and refer to it while they live.
  virtual std::unique_ptr<model::ModelHooks> hooks(const optim::Arena& arena, ForwardContext context) const = 0;
  /// Names whether `generate` etc. need the text encoder inside the step (textual inversion) or the context may be
  /// computed without gradient.
  virtual bool trains_text_encoder() const { return false; }
  /// Writes the exchange format of this method (A1111 .pt ...) atomically.
  struct ExportInfo {
    std::string name = {};  ///< what users see in the web UI
    std::int64_t step = 0;
    std::string base_sha256 = {};  ///< sd_checkpoint
    std::string base_name = {};
    /// Leave out what only training uses (dropout), for readers that would keep it active.
    bool inference_only = false;
  };
  virtual void export_file(const optim::Arena& arena, const std::filesystem::path& file,
                           const ExportInfo& info) const = 0;
  virtual std::string file_extension() const = 0;  ///< ".pt"
  /// Whether the exchange file holds the parameters as they are: then a checkpoint's own file of them is written by
  /// export_file, without names that would differ between equal runs, and is the exchange file.
  virtual bool exports_plain_parameters() const { return false; }
};

}  // namespace ldmtune::adapt
