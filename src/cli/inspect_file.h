#pragma once
#include <filesystem>
#include <string>

#include "core/error.h"

namespace ldmtune::cli {

/// What a regular file is, with what it holds, by its first bytes: one line, then indented "name: value" lines.
/// Errors: InputError naming what is damaged, or listing the kinds that are known.
std::string describe_file(const std::filesystem::path& file);

/// "  name: value\n".
template <class T>
std::string fact(const std::string& name, const T& value) {
  return cat("  ", name, ": ", value, "\n");
}

}  // namespace ldmtune::cli
