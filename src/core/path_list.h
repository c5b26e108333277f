#pragma once
// Several paths in one option.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace ldmtune {

/// Stands in config files as "a.latents, b.latents"; a path that holds a comma is quoted.
struct PathList {
  std::vector<std::filesystem::path> paths;

  PathList() = default;
  PathList(std::vector<std::filesystem::path> several) : paths(std::move(several)) {}
  PathList(const std::filesystem::path& one) : paths{one} {}

  bool empty() const { return paths.empty(); }
  std::size_t size() const { return paths.size(); }
  auto begin() const { return paths.begin(); }
  auto end() const { return paths.end(); }
  const std::filesystem::path& operator[](std::size_t place) const { return paths[place]; }
  /// As it stands in a config file.
  std::string string() const;
  bool operator==(const PathList& other) const = default;
};

}  // namespace ldmtune
