#pragma once
// Zip archives of stored (not compressed) records, as torch.save writes them. Internal to store.

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "store/file_io.h"

namespace ldmtune::store {

/// Reads and checks the whole directory at once: every record must lie inside the file, apart from the others, under
/// one safe name, neither compressed nor encrypted. Errors: InputError naming the file, the record, what is wrong.
class ZipReader {
 public:
  explicit ZipReader(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return entries_.count(name) > 0; }
  std::uint64_t size(const std::string& name) const { return entry(name).size; }
  /// Fills `out`, which has the record's size; InputError if the CRC-32 does not hold.
  void read(const std::string& name, std::span<std::byte> out) const;
  /// InputError above `limit` bytes.
  std::string read_text(const std::string& name, std::uint64_t limit) const;

 private:
  struct Entry {
    std::string name;
    std::uint32_t crc = 0;
    std::uint64_t size = 0, stored_size = 0, header_offset = 0, data_offset = 0;
    std::uint16_t method = 0;
  };
  struct Directory {
    std::uint64_t offset = 0, size = 0, count = 0;
  };
  Directory find_directory() const;
  Directory read_zip64_directory(std::uint64_t end_record, const Directory& short_form) const;
  Entry parse_entry(const std::string& directory, std::size_t& at) const;
  void read_zip64_sizes(const std::string& extra, Entry& entry) const;
  void check_local_header(Entry& entry) const;
  void check_overlaps(std::uint64_t directory_offset) const;
  const Entry& entry(const std::string& name) const;
  [[noreturn]] void refuse(const std::string& found) const;

  InputFile file_;
  std::map<std::string, Entry> entries_;
};

/// Appends records to a file; their bytes start at multiples of 64, as torch's do (so that they can be mapped).
class ZipWriter {
 public:
  explicit ZipWriter(OutputFile& out) : out_(out) {}
  void add(const std::string& name, std::span<const std::byte> bytes);
  void add(const std::string& name, const std::string& text);
  /// Writes the directory. Call once, last.
  void finish();

 private:
  struct Entry {
    std::string name;
    std::uint32_t crc;
    std::uint64_t size, header_offset;
  };
  static std::string central_header(const Entry& entry);
  std::string end_records(std::uint64_t directory_offset, std::uint64_t end) const;

  OutputFile& out_;
  std::vector<Entry> entries_;
};

}  // namespace ldmtune::store
