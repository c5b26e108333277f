#pragma once
// Axes of a picture grid: --x strength=0,0.5,1 --y steps=10,20.

#include <cstdint>
#include <string>
#include <vector>

namespace ldmtune::cli {

struct SampleOptions;

/// What may differ from one picture of a grid to the next.
struct SampleSettings {
  std::uint64_t seed = 0;
  std::string sampler;
  std::int64_t num_inference_steps = 0;
  double guidance_scale = 1;
  double strength = 1.0;           ///< of hypernetworks and LoRAs, times that of their options
  std::string hypernetwork, lora;  ///< as SampleOptions has them

  /// As the options say.
  static SampleSettings of(const SampleOptions& options);
};

/// One setting and the values it takes, as text.
struct SampleAxis {
  std::string setting;  ///< empty: one place, which changes nothing
  std::vector<std::string> values{""};

  /// "SETTING=V1,V2 ..."; `option` (x, y, z) names it for errors. Settings: strength, steps, guidance, seed, sampler,
  /// checkpoint (files in place of --hypernetwork, or of --lora where that alone is given), hypernetwork, lora.
  /// Errors: InputError naming the option: unknown setting, no or bad values.
  static SampleAxis parse(const std::string& text, const std::string& option, const SampleOptions& options);

  bool is_used() const { return !setting.empty(); }
  /// Sets the i-th value.
  void apply(std::size_t i, SampleSettings& settings) const;
  /// "steps 20"
  std::string label(std::size_t i) const;
};

}  // namespace ldmtune::cli
