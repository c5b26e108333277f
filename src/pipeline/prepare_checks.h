#pragma once
// What `prepare` finds out before it writes anything. All ranks call each function together and get the same.

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/captions.h"
#include "model/autoencoder_kl.h"
#include "pipeline/scan.h"

namespace ldmtune::pipeline {

/// The base as far as encoding needs it.
struct PrepareBase {
  std::unique_ptr<model::AutoencoderKL> vae;  ///< fp32
  std::string base_sha256, vae_sha256;
  std::int64_t resolution = 0;  ///< pixels; a multiple of the VAE's factor
};

/// Checks the options and lists the folder. Errors: InputError naming the option, or the image without a caption.
std::vector<data::ImageEntry> checked_entries(const PrepareConfig& config, comm::Communicator& comm);

/// Which entries --known_only leaves. Errors: InputError if that is none.
std::vector<bool> images_taken(const std::vector<data::ImageEntry>& entries, const PrepareConfig& config);

/// Errors: InputError if the resolution does not fit the VAE.
PrepareBase load_prepare_base(const PrepareConfig& config, comm::Communicator& comm);

/// Unreadable images: InputError that lists all, or with skip_bad a warning each. Equal files: a warning. Warnings if
/// `loud`.
void report_bad_images(const ScanResult& scan, const PrepareConfig& config, bool loud);

}  // namespace ldmtune::pipeline
