#pragma once
// What `inspect` says of the files that the Stable Diffusion world exchanges.

#include <filesystem>
#include <string>

#include "cli/file_kind.h"

namespace ldmtune::cli {

/// Format, method, base family, size, what it was trained on, hashes; empty for FileKind::other. Everything is read and
/// checked. Errors: InputError naming the file and what is damaged.
std::string describe_kind(FileKind kind, const std::filesystem::path& file);

/// "Stable Diffusion 1" of a text context 768 wide; "" where the width is no published family's.
std::string family_of_width(std::int64_t width);

}  // namespace ldmtune::cli
