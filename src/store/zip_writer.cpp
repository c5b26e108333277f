#include <algorithm>

#include "store/checksum.h"
#include "store/zip_archive.h"
#include "store/zip_format.h"

namespace ldmtune::store {
namespace {

constexpr std::uint64_t kAlignment = 64;
constexpr std::uint64_t kVersion = 45;  // of the format: the first with zip64

void put(std::string& out, std::uint64_t value, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out += static_cast<char>(value >> (8 * i));
}

std::uint32_t short_size(std::uint64_t value) {
  return value >= kSeeZip64 ? kSeeZip64 : static_cast<std::uint32_t>(value);
}

}  // namespace

void ZipWriter::add(const std::string& name, std::span<const std::byte> bytes) {
  const Entry entry{name, crc32(bytes), bytes.size(), out_.size()};
  std::string extra;
  if (entry.size >= kSeeZip64) {
    put(extra, kZip64Extra, 2);
    put(extra, 16, 2);
    put(extra, entry.size, 8);
    put(extra, entry.size, 8);
  }
  const std::uint64_t unpadded = entry.header_offset + kLocalHeaderSize + name.size() + extra.size() + 4;
  const std::uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  put(extra, kPaddingExtra, 2);
  put(extra, padding, 2);
  extra.append(padding, 'Z');
  std::string header;
  put(header, kLocalHeader, 4);
  put(header, kVersion, 2);
  put(header, 0, 2 + 2 + 2 + 2);  // flags, method, time, date
  put(header, entry.crc, 4);
  put(header, short_size(entry.size), 4);
  put(header, short_size(entry.size), 4);
  put(header, name.size(), 2);
  put(header, extra.size(), 2);
  out_.append(header + name + extra);
  out_.append(bytes);
  entries_.push_back(entry);
}

void ZipWriter::add(const std::string& name, const std::string& text) { add(name, std::as_bytes(std::span(text))); }

std::string ZipWriter::central_header(const Entry& entry) {
  std::string extra;
  for (const std::uint64_t value : {entry.size, entry.size, entry.header_offset}) {
    if (value >= kSeeZip64) put(extra, value, 8);
  }
  std::string header;
  put(header, kCentralHeader, 4);
  put(header, kVersion | kVersion << 16, 4);  // made by and needed
  put(header, 0, 2 + 2 + 2 + 2);              // flags, method, time, date
  put(header, entry.crc, 4);
  put(header, short_size(entry.size), 4);
  put(header, short_size(entry.size), 4);
  put(header, entry.name.size(), 2);
  put(header, extra.empty() ? 0 : extra.size() + 4, 2);
  put(header, 0, 2 + 2 + 2);  // comment, disk, internal attributes
  put(header, 0, 4);          // external attributes
  put(header, short_size(entry.header_offset), 4);
  header += entry.name;
  if (extra.empty()) return header;
  put(header, kZip64Extra, 2);
  put(header, extra.size(), 2);
  return header + extra;
}

std::string ZipWriter::end_records(std::uint64_t directory_offset, std::uint64_t end) const {
  const std::uint64_t count = entries_.size(), size = end - directory_offset;
  std::string record;
  if (count >= 0xFFFF || end >= kSeeZip64) {
    put(record, kZip64EndRecord, 4);
    put(record, kZip64EndRecordSize - 12, 8);
    put(record, kVersion | kVersion << 16, 4);
    put(record, 0, 8);  // disks
    for (const std::uint64_t value : {count, count, size, directory_offset}) put(record, value, 8);
    put(record, kZip64Locator, 4);
    put(record, 0, 4);  // disk
    put(record, end, 8);
    put(record, 1, 4);  // disks in all
  }
  put(record, kEndRecord, 4);
  put(record, 0, 4);  // disks
  const std::uint64_t short_count = std::min<std::uint64_t>(count, 0xFFFF);
  put(record, short_count | short_count << 16, 4);
  put(record, short_size(size), 4);
  put(record, short_size(directory_offset), 4);
  put(record, 0, 2);  // comment
  return record;
}

void ZipWriter::finish() {
  const std::uint64_t directory_offset = out_.size();
  for (const Entry& entry : entries_) out_.append(central_header(entry));
  out_.append(end_records(directory_offset, out_.size()));
}

}  // namespace ldmtune::store
