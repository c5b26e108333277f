// The rooms of src/ may include only what stands to their left (src/README.md). This test reads every #include.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

/// Source text by path relative to src/, such as "core/error.h".
using Sources = std::map<std::string, std::string>;

struct Include {
  std::string name;
  bool quoted = false;
};

const std::map<std::string, int> kLevels = {{"core", 0},      {"comm", 1},  {"store", 1}, {"model", 2},
                                            {"diffusion", 2}, {"data", 2},  {"optim", 2}, {"adapt", 3},
                                            {"pipeline", 4},  {"train", 5}, {"sweep", 6}, {"cli", 7}};

/// Libraries that have one home: prefix of the header's name -> rooms that may include it.
const std::vector<std::pair<std::string, std::set<std::string>>> kHomes = {
    {"mpi", {"comm"}},      {"nccl", {"comm"}},   {"hdf5", {"store"}},  {"H5", {"store"}},     {"png", {"store"}},
    {"jpeglib", {"store"}}, {"webp/", {"store"}}, {"cairo", {"store"}}, {"torch/torch.h", {}}, {"torch/all.h", {}}};

const std::vector<std::string> kTensorPrefixes = {"ATen/", "c10/", "torch/", "caffe2/"};

std::string room_of(const std::string& path) { return path.substr(0, path.find('/')); }

std::vector<Include> includes_of(const std::string& text) {
  std::vector<Include> includes;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto hash = line.find_first_not_of(" \t");
    if (hash == std::string::npos || line[hash] != '#') continue;
    const auto word = line.find_first_not_of(" \t", hash + 1);
    if (word == std::string::npos || line.compare(word, 7, "include") != 0) continue;
    const auto open = line.find_first_of("\"<", word);
    if (open == std::string::npos) continue;
    const auto close = line.find(line[open] == '<' ? '>' : '"', open + 1);
    if (close == std::string::npos) continue;
    includes.push_back({line.substr(open + 1, close - open - 1), line[open] == '"'});
  }
  return includes;
}

/// What is wrong with one include of `path`; empty if nothing.
std::string violation(const std::string& path, const Include& include, const Sources& sources) {
  const std::string room = room_of(path);
  if (include.quoted) {
    if (sources.count(include.name) == 0) return "no such file in src/; quoted includes are \"room/file.h\"";
    const std::string other = room_of(include.name);
    if (other != room && kLevels.at(other) >= kLevels.at(room))
      return "room " + room + " may not include room " + other;
    return "";
  }
  for (const auto& [prefix, homes] : kHomes) {
    if (include.name.starts_with(prefix) && homes.count(room) == 0) return "this library is not for room " + room;
  }
  const bool tensors = std::any_of(kTensorPrefixes.begin(), kTensorPrefixes.end(),
                                   [&](const std::string& prefix) { return include.name.starts_with(prefix); });
  if (tensors && (room == "core" || room == "comm")) return "room " + room + " has no ATen";
  return "";
}

std::vector<std::string> violations(const Sources& sources) {
  std::vector<std::string> found;
  for (const auto& [path, text] : sources) {
    if (kLevels.count(room_of(path)) == 0) {
      found.push_back("src/" + path + ": unknown room " + room_of(path));
      continue;
    }
    for (const Include& include : includes_of(text)) {
      const std::string what = violation(path, include, sources);
      if (!what.empty()) found.push_back("src/" + path + ": #include of " + include.name + ": " + what);
    }
  }
  return found;
}

/// Depth-first search that reports the first header reached from itself; `open` holds the path so far.
bool find_cycle(const std::string& path, const Sources& sources, std::set<std::string>& done,
                std::vector<std::string>& open) {
  if (std::find(open.begin(), open.end(), path) != open.end()) {
    open.push_back(path);
    return true;
  }
  if (done.count(path) > 0 || sources.count(path) == 0) return false;
  open.push_back(path);
  for (const Include& include : includes_of(sources.at(path))) {
    if (include.quoted && find_cycle(include.name, sources, done, open)) return true;
  }
  open.pop_back();
  done.insert(path);
  return false;
}

/// The files of a cycle of includes, in order; empty if there is none.
std::vector<std::string> cycle(const Sources& sources) {
  std::set<std::string> done;
  for (const auto& entry : sources) {
    std::vector<std::string> open;
    if (find_cycle(entry.first, sources, done, open)) return open;
  }
  return {};
}

Sources read_sources() {
  const fs::path root = fs::path(LDMTUNE_SOURCE_DIR) / "src";
  Sources sources;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const auto extension = entry.path().extension();
    if (extension != ".h" && extension != ".cpp") continue;
    std::ostringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    sources[fs::relative(entry.path(), root).generic_string()] = text.str();
  }
  return sources;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  return text;
}

TEST(IncludeArrows, PointLeftInAllOfSrc) {
  const Sources sources = read_sources();
  ASSERT_GT(sources.size(), 30U);
  EXPECT_EQ(joined(violations(sources)), "");
}

TEST(IncludeArrows, FormNoCycle) { EXPECT_EQ(joined(cycle(read_sources())), ""); }

TEST(IncludeArrows, EveryHeaderIsGuarded) {
  for (const auto& [path, text] : read_sources()) {
    EXPECT_TRUE(!path.ends_with(".h") || text.find("#pragma once") != std::string::npos) << "src/" << path;
  }
}

TEST(IncludeArrows, WrongArrowsAreFound) {
  const Sources sources = {{"core/a.h", "#include \"train/b.h\"\n"},
                           {"train/b.h", "#include <hdf5.h>\n# include <mpi.h>\n#include \"core/a.h\"\n"},
                           {"data/c.h", "#include \"model/d.h\"\n"},
                           {"model/d.h", "#include <png.h>\n#include <vector>\n"},
                           {"comm/e.cpp", "#include <mpi.h>\n#include <ATen/ATen.h>\n"},
                           {"store/f.cpp", "#include <hdf5.h>\n#include <ATen/ATen.h>\n#include \"f.h\"\n"}};
  const auto found = violations(sources);
  EXPECT_EQ(found.size(), 7U) << joined(found);
  EXPECT_EQ(joined(cycle(sources)), "core/a.h\ntrain/b.h\ncore/a.h\n");
}

TEST(IncludeArrows, AllowedArrowsPass) {
  const Sources sources = {{"core/a.h", "#include <random>\n"},
                           {"comm/b.cpp", "  #  include <mpi.h>\n#include \"core/a.h\"\n"},
                           {"store/c.h", "#include <ATen/ATen.h>\n#include \"core/a.h\"\n"},
                           {"cli/d.cpp", "#include \"store/c.h\"\n#include \"core/a.h\"\n"}};
  EXPECT_EQ(joined(violations(sources)), "");
  EXPECT_TRUE(cycle(sources).empty());
}

}  // namespace
