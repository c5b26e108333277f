#include "model/base_outline.h"

#include <map>
#include <memory>
#include <mutex>

#include "store/files.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;

struct Known {
  fs::file_time_type written;
  std::uintmax_t bytes = 0;
  std::unique_ptr<const BaseParts> parts;
};

}  // namespace

bool is_single_file(const fs::path& base) {
  std::error_code ignored;
  return fs::is_regular_file(base, ignored);
}

const BaseParts& single_file_outline(const fs::path& file) {
  static std::mutex lock;
  static std::map<std::string, Known> files;
  const std::lock_guard<std::mutex> guard(lock);
  Known& known = files[file.string()];
  const auto written = fs::last_write_time(file);
  const std::uintmax_t bytes = fs::file_size(file);
  if (!known.parts || known.written != written || known.bytes != bytes) {
    known = {written, bytes, std::make_unique<const BaseParts>(read_single_file_outline(file))};
  }
  return *known.parts;
}

NetworkConfig read_network_config(const fs::path& base, const std::string& network) {
  if (is_single_file(base)) {
    const BaseParts& parts = single_file_outline(base);
    const auto found = parts.networks.find(network);
    const std::string source = base.string() + " (" + network + ")";
    return {found == parts.networks.end() ? nlohmann::json() : found->second.config, source};
  }
  const fs::path file = base / network / "config.json";
  if (network != "unet" && !fs::exists(file)) return {nullptr, file.string()};
  return {store::read_json(file), file.string()};
}

}  // namespace ldmtune::model
