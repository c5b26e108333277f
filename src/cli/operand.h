#pragma once
// Subcommands that take one file or folder.

#include <string>

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::cli {

/// The one positional argument. Errors: InputError saying what `command` expected ("one FILE or FOLDER") and how many
/// came.
inline const std::string& only_operand(const CommandLine& line, const std::string& command,
                                       const std::string& expected) {
  if (line.positional.size() != 1) {
    fail_input(command, ": expected ", expected, ", found ", line.positional.size(), "; see ldmtune ", command,
               " --help");
  }
  return line.positional.front();
}

}  // namespace ldmtune::cli
