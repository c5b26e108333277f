#pragma once
// A dataset of random latents, for what needs numbers to train on and no pictures.

#include <cstdint>
#include <filesystem>

#include "core/config.h"

namespace ldmtune::train {

/// A temporary folder of this process; it is removed with the object.
class SyntheticData {
 public:
  static constexpr std::uint64_t kSamples = 16;

  SyntheticData();
  ~SyntheticData();
  SyntheticData(const SyntheticData&) = delete;
  SyntheticData& operator=(const SyntheticData&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  /// Fills the folder with kSamples training images of normal latents for config's base, each with this caption; the
  /// same for every process. They are `resolution` pixels high and wide, or where that is 0 their latents are
  /// `latent_side`. Errors: InputError naming the option resolution.
  void write(const TrainConfig& config, std::int64_t resolution, std::int64_t latent_side,
             const std::string& caption) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace ldmtune::train
