#pragma once
// Whose log lines these are, where one process works on several things in turn.

#include <string>

namespace ldmtune {

/// While it lives, what this thread logs belongs to `name` (one of several trials) and not to the process as a whole;
/// within another scope it replaces that one. A FileLog (core/log.h) that is opened in a scope leaves out what other
/// scopes log.
class LogScope {
 public:
  explicit LogScope(const std::string& name);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  std::string outer_;
};

}  // namespace ldmtune
