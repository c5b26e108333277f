#pragma once
// Errors carry the exit code and the remedy: name the file or option, what was expected, what was found, what to do.

#include <sstream>
#include <stdexcept>
#include <string>

namespace ldmtune {

/// Exit codes of every ldmtune command.
enum class ExitCode : int { done = 0, failed = 1, bad_input = 2, interrupted = 85 };

/// A run that failed for a reason other than its input (disk full, NaN, a lost rank): exit code 1.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::failed)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// Bad usage or input, found before anything is written: exit code 2.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(message, ExitCode::bad_input) {}
};

/// Concatenates its arguments as a stream prints them.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail_input(const Parts&... parts) {
  throw InputError(cat(parts...));
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(cat(parts...));
}

}  // namespace ldmtune
