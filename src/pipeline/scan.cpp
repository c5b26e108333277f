#include "pipeline/scan.h"

#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/progress.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "store/image.h"

namespace ldmtune::pipeline {
namespace {

std::array<std::uint8_t, 32> from_hex(const std::string& hex) {
  std::array<std::uint8_t, 32> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

/// {"index", "sha256"} or {"index", "error"}. Reading comes first: it refuses what is no regular file.
nlohmann::json examine(std::size_t index, const std::filesystem::path& file) {
  try {
    store::read_image(file);
    return {{"index", index}, {"sha256", store::sha256_file(file)}};
  } catch (const InputError& error) {
    return {{"index", index}, {"error", error.what()}};
  }
}

}  // namespace

ScanResult scan_images(const std::vector<data::ImageEntry>& entries, const std::vector<bool>& taken,
                       comm::Communicator& comm) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (taken[i]) indices.push_back(i);
  }
  ProgressBar progress("check ", static_cast<std::int64_t>(indices.size()), "images", comm.rank() == 0);
  const auto step = static_cast<std::size_t>(comm.size());
  const std::vector<std::string> shares = gather_together(comm, [&] {
    nlohmann::json share = nlohmann::json::array();
    for (auto i = static_cast<std::size_t>(comm.rank()); i < indices.size(); i += step) {
      share.push_back(examine(indices[i], entries[indices[i]].file));
      progress.update(static_cast<std::int64_t>(std::min(i + step, indices.size())));
    }
    return share.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  });
  progress.finish();

  std::map<std::size_t, nlohmann::json> examined;
  for (const std::string& share : shares) {
    for (const nlohmann::json& item : nlohmann::json::parse(share)) examined[item.at("index")] = item;
  }
  ScanResult result;
  for (const auto& [index, item] : examined) {
    if (item.contains("error")) {
      result.bad.push_back(item.at("error"));
    } else {
      result.images.push_back({index, entries[index], from_hex(item.at("sha256"))});
    }
  }
  return result;
}

std::vector<std::string> equal_files(const std::vector<ScannedImage>& images) {
  std::map<std::array<std::uint8_t, 32>, std::string> names;
  std::map<std::array<std::uint8_t, 32>, int> counts;
  for (const ScannedImage& image : images) {
    std::string& line = names[image.sha256];
    line += (line.empty() ? "" : ", ") + image.entry.source;
    ++counts[image.sha256];
  }
  std::vector<std::string> lines;
  for (const auto& [hash, line] : names) {
    if (counts[hash] > 1) lines.push_back(line);
  }
  return lines;
}

}  // namespace ldmtune::pipeline
