#pragma once
#include <filesystem>
#include <string>

namespace ldmtune::cli {

/// What a folder is (dataset, base model, checkpoint, run), with what it holds; every checksum that it carries is
/// verified. Errors: InputError naming what is damaged, or listing the kinds that are known.
std::string describe_folder(const std::filesystem::path& folder);

}  // namespace ldmtune::cli
