#pragma once
// A dataset's copy on the node's own disk, for file systems that many nodes share and few reads at a time serve well.

#include <filesystem>
#include <string>

#include "data/latent_dataset.h"

namespace ldmtune::data {

/// Where to read a dataset's captions and parts. Where the environment variable LDMTUNE_SCRATCH is empty or unset, that
/// is `folder`; else <LDMTUNE_SCRATCH>/ldmtune-<start of sha256>, to which the files that the index lists are copied
/// unless they are there. One process of a node copies while the others wait; a copy exists whole or not at all, and
/// its name is its content's, so that it is never stale. Where copying fails (no space, no permission) a warning is
/// logged and `folder` is read.
std::filesystem::path staged_dataset(const std::filesystem::path& folder, const DatasetIndex& index,
                                     const std::string& sha256);

}  // namespace ldmtune::data
