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
  /// Times those of the options; that of an embedding is its word's weight, as in (word:0.8).
  double hypernetwork_strength = 1.0, lora_strength = 1.0, embedding_strength = 1.0;
  std::string hypernetwork, lora, embedding;  ///< as SampleOptions has them

  /// As the options say.
  static SampleSettings of(const SampleOptions& options);
};

/// One setting and the values it takes, as text.
struct SampleAxis {
  std::string setting;  ///< empty: one place, which changes nothing
  std::vector<std::string> values{""};

  /// "SETTING=V1,V2 ..."; `option` (x, y, z) names it for errors. Settings: strength (of hypernetworks and LoRAs, or of
  /// embeddings where they alone are given), hypernetwork_strength, lora_strength, embedding_strength, steps, guidance,
  /// seed, sampler, hypernetwork, lora, embedding, and checkpoint (files in place of --hypernetwork, or of --lora or
  /// --embedding where that alone is given).
  /// Errors: InputError naming the option: unknown setting, no or bad values.
  static SampleAxis parse(const std::string& text, const std::string& option, const SampleOptions& options);

  bool is_used() const { return !setting.empty(); }
  /// Sets the i-th value.
  void apply(std::size_t i, SampleSettings& settings) const;
  /// "steps 20"
  std::string label(std::size_t i) const;

 private:
  /// The file's name, with its folder's where several are called so.
  std::string file_label(std::size_t i) const;
};

}  // namespace ldmtune::cli
