#pragma once
// Checked POSIX files: read at an offset, append. Reading past a file that shrank is an error, never a signal (as a
// mapping's would be).

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace ldmtune::store {

/// An open regular file. Errors: InputError naming the file if it is missing, unreadable or no regular file.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& file);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  /// Fills `out` from `offset`; InputError if the file ends before.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  std::string read_string(std::uint64_t offset, std::size_t length) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// A new file (an old one is truncated). Errors: Error naming the file (disk full ...).
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& file);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(const std::string& text);
  std::uint64_t size() const { return size_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// fsync of a file or a folder.
void sync_path(const std::filesystem::path& path);

/// True if the text is well-formed UTF-8 (no overlong forms, surrogates or values past U+10FFFF).
bool is_utf8(const std::string& text);

/// The text with control characters and long tails replaced, fit for an error message.
std::string printable(const std::string& text, std::size_t limit = 80);

}  // namespace ldmtune::store
