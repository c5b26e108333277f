#include "store/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace ldmtune::store {
namespace {

std::string reason() { return std::strerror(errno); }

/// Kernels refuse single transfers of 2 GiB and more.
constexpr std::size_t kLargestTransfer = std::size_t{1} << 30;

/// Length of the UTF-8 sequence that starts at `bytes`, 0 if it is malformed.
std::size_t utf8_sequence_length(const unsigned char* bytes, std::size_t left) {
  const unsigned char first = bytes[0];
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || left < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((bytes[i] & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xE0 && bytes[1] < 0xA0) || (first == 0xF0 && bytes[1] < 0x90);
  const bool surrogate = first == 0xED && bytes[1] > 0x9F;
  const bool too_large = first == 0xF4 && bytes[1] > 0x8F;
  return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

InputFile::InputFile(const std::filesystem::path& file) : path_(file) {
  // O_NONBLOCK: opening a FIFO would wait for a writer.
  descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_input(file, ": expected a readable file, found: ", reason(), ". Check the path.");
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) {
    ::close(descriptor_);
    fail_input(file, ": expected a regular file, found ", S_ISDIR(status.st_mode) ? "a folder" : "something else",
               ". Check the path.");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(other.descriptor_), size_(other.size_) {
  other.descriptor_ = -1;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    fail_input(path_, ": expected ", out.size(), " bytes at ", offset, ", found the end of the file at ", size_,
               ". The file is cut short: fetch or write it again.");
  }
  while (!out.empty()) {
    const ssize_t got =
        ::pread(descriptor_, out.data(), std::min(out.size(), kLargestTransfer), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fail_input(path_, ": expected ", out.size(), " more bytes at ", offset, ", found ",
                 got < 0 ? reason() : std::string("the end of the file (it shrank while being read)"), ".");
    }
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

std::string InputFile::read_string(std::uint64_t offset, std::size_t length) const {
  if (length > size_) read(offset, {static_cast<std::byte*>(nullptr), length});
  std::string text(length, '\0');
  read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

OutputFile::OutputFile(const std::filesystem::path& file) : path_(file) {
  descriptor_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("cannot write ", file, ": ", reason(), ". Check the folder and its permissions.");
}

OutputFile::~OutputFile() { ::close(descriptor_); }

void OutputFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kLargestTransfer));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("cannot write ", path_, " at byte ", size_, ": ", reason(), ".");
    size_ += static_cast<std::uint64_t>(written);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void OutputFile::append(const std::string& text) { append(std::as_bytes(std::span(text))); }

void sync_path(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail("cannot open ", path, " to flush it to disk: ", reason(), ".");
  // Some network and overlay file systems cannot fsync a folder and say EINVAL: their renames need none.
  const bool synced = ::fsync(descriptor) == 0 || errno == EINVAL;
  const std::string why = synced ? "" : reason();
  ::close(descriptor);
  if (!synced) fail("cannot flush ", path, " to disk: ", why, ".");
}

bool is_utf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = utf8_sequence_length(bytes + at, text.size() - at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string printable(const std::string& text, std::size_t limit) {
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte > 0x7E ? '?' : c;
  }
  return text.size() > limit ? cat(out, "... (", text.size(), " bytes)") : out;
}

}  // namespace ldmtune::store
