#pragma once
// What the store's tests share: a folder of their own, bytes in and out, and the one error that bad input may cause.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/error.h"

namespace ldmtune::store {

/// A new folder, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ldmtune-store-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  std::size_t file_count() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

inline std::string read_bytes(const std::filesystem::path& file) {
  std::ostringstream out;
  out << std::ifstream(file, std::ios::binary).rdbuf();
  return out.str();
}

/// The low `count` bytes of `value`, least significant first.
inline std::string little_endian(std::uint64_t value, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

/// Runs `action`, which must throw an InputError whose message holds `expected`, and names a file if `file` is given.
template <class Action>
void expect_input_error(Action action, const std::string& expected, const std::string& file = "") {
  try {
    action();
    FAIL() << "accepted; expected an InputError with: " << expected;
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(expected), std::string::npos) << message << "\nexpected to hold: " << expected;
    EXPECT_NE(message.find(file), std::string::npos) << message << "\nexpected to name: " << file;
    EXPECT_LT(message.size(), 2000u);
  }
}

}  // namespace ldmtune::store
