#pragma once
// Expects an InputError whose message holds every one of `parts`: what was wrong must be nameable by its reader.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace ldmtune {

inline void expect_input_error(const std::function<void()>& action, const std::vector<std::string>& parts) {
  try {
    action();
  } catch (const InputError& error) {
    const std::string message = error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "\"" << part << "\" is not in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "no InputError; expected one with " << parts.front();
}

}  // namespace ldmtune
