#include "data/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include "core/error.h"
#include "core/log.h"

namespace ldmtune::data {
namespace {

namespace fs = std::filesystem;

/// Held by one process of the node at a time; the system lets it go when the process ends, however it ends.
class NodeLock {
 public:
  explicit NodeLock(const fs::path& file) : descriptor_(::open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) {
    if (descriptor_ < 0) fail("cannot open ", file.string(), ": ", std::strerror(errno));
    while (::flock(descriptor_, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      ::close(descriptor_);
      fail("cannot lock ", file.string(), ": ", std::strerror(error));
    }
  }
  ~NodeLock() { ::close(descriptor_); }
  NodeLock(const NodeLock&) = delete;
  NodeLock& operator=(const NodeLock&) = delete;

 private:
  int descriptor_;
};

std::vector<std::string> files_of(const DatasetIndex& index) {
  std::vector<std::string> files{"captions.jsonl"};
  for (const DatasetIndex::Part& part : index.parts) files.push_back(part.file);
  return files;
}

bool has_all(const fs::path& copy, const fs::path& folder, const std::vector<std::string>& files) {
  return std::all_of(files.begin(), files.end(), [&](const std::string& file) {
    std::error_code missing;
    const std::uintmax_t size = fs::file_size(copy / file, missing);
    return !missing && size == fs::file_size(folder / file);
  });
}

void copy_files(const fs::path& folder, const fs::path& copy, const std::vector<std::string>& files) {
  const fs::path partial = copy.string() + ".partial";
  fs::remove_all(partial);  // of a process that was killed: nobody else holds the lock
  fs::create_directories(partial);
  for (const std::string& file : files) fs::copy_file(folder / file, partial / file);
  fs::remove_all(copy);
  fs::rename(partial, copy);
}

}  // namespace

fs::path staged_dataset(const fs::path& folder, const DatasetIndex& index, const std::string& sha256) {
  const char* scratch = std::getenv("LDMTUNE_SCRATCH");
  if (scratch == nullptr || *scratch == '\0') return folder;
  const fs::path copy = fs::path(scratch) / ("ldmtune-" + sha256.substr(0, 16));
  const std::vector<std::string> files = files_of(index);
  try {
    fs::create_directories(scratch);
    const NodeLock lock(copy.string() + ".lock");
    if (!has_all(copy, folder, files)) {
      LDMTUNE_LOG(info) << "Copying dataset " << folder.string() << " to " << copy.string();
      copy_files(folder, copy, files);
    }
    return copy;
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove_all(copy.string() + ".partial", ignored);  // makes room again
    LDMTUNE_LOG(warning) << "LDMTUNE_SCRATCH: " << folder.string()
                         << " is read where it is, not from this node's disk: " << error.what();
    return folder;
  }
}

}  // namespace ldmtune::data
