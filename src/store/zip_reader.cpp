#include <algorithm>

#include "core/error.h"
#include "store/checksum.h"
#include "store/zip_archive.h"
#include "store/zip_format.h"

namespace ldmtune::store {
namespace {

constexpr std::uint16_t kEncrypted = 1 | 1 << 6 | 1 << 13, kSizesAfterData = 1 << 3;
constexpr std::uint64_t kMostEntries = 1'000'000, kLargestDirectory = std::uint64_t{256} << 20;

std::uint64_t number(const std::string& bytes, std::size_t at, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}
std::uint16_t u16(const std::string& bytes, std::size_t at) { return static_cast<std::uint16_t>(number(bytes, at, 2)); }
std::uint32_t u32(const std::string& bytes, std::size_t at) { return static_cast<std::uint32_t>(number(bytes, at, 4)); }
std::uint64_t u64(const std::string& bytes, std::size_t at) { return number(bytes, at, 8); }

bool is_safe_name(const std::string& name) {
  const bool control = std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20; });
  return !name.empty() && name[0] != '/' && !control && name.find("..") == std::string::npos &&
         name.find('\\') == std::string::npos;
}

}  // namespace

void ZipReader::refuse(const std::string& found) const {
  fail_input(path(), ": expected a whole zip archive as torch.save writes it, found ", found,
             ". Fetch the file again, or save it again with torch.save.");
}

ZipReader::ZipReader(const std::filesystem::path& file) : file_(file) {
  const Directory directory = find_directory();
  if (directory.count > kMostEntries || directory.size > kLargestDirectory ||
      directory.count * kCentralHeaderSize > directory.size) {
    refuse(cat("a directory of ", directory.count, " records in ", directory.size, " bytes"));
  }
  const std::string bytes = file_.read_string(directory.offset, directory.size);
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < directory.count; ++i) {
    Entry entry = parse_entry(bytes, at);
    check_local_header(entry);
    const std::string name = entry.name;
    if (!entries_.emplace(name, std::move(entry)).second) refuse(cat("record '", printable(name), "' twice"));
  }
  if (at != bytes.size()) refuse("foreign bytes after its directory");
  check_overlaps(directory.offset);
}

ZipReader::Directory ZipReader::find_directory() const {
  const std::size_t tail_size = std::min<std::uint64_t>(file_.size(), kEndRecordSize + 0xFFFF);
  const std::string tail = file_.read_string(file_.size() - tail_size, tail_size);
  for (std::size_t at = tail_size < kEndRecordSize ? 0 : tail_size - kEndRecordSize + 1; at-- > 0;) {
    if (u32(tail, at) != kEndRecord || at + kEndRecordSize + u16(tail, at + 20) != tail_size) continue;
    const std::uint64_t end_record = file_.size() - tail_size + at;
    const Directory directory{u32(tail, at + 16), u32(tail, at + 12), u16(tail, at + 10)};
    if (u16(tail, at + 4) != 0 || u16(tail, at + 6) != 0 || u16(tail, at + 8) != directory.count) {
      refuse("a part of an archive that spans several files");
    }
    if (at >= kZip64LocatorSize && u32(tail, at - kZip64LocatorSize) == kZip64Locator) {
      return read_zip64_directory(end_record, directory);
    }
    if (directory.offset + directory.size != end_record) refuse("a directory that does not reach its end record");
    return directory;
  }
  refuse("no directory at its end (the file is cut short)");
}

ZipReader::Directory ZipReader::read_zip64_directory(std::uint64_t end_record, const Directory& short_form) const {
  const std::uint64_t locator = end_record - kZip64LocatorSize;
  const std::uint64_t record = u64(file_.read_string(locator, kZip64LocatorSize), 8);
  if (record > locator || locator - record != kZip64EndRecordSize) refuse("a zip64 end record at a wrong place");
  const std::string bytes = file_.read_string(record, kZip64EndRecordSize);
  const Directory directory{u64(bytes, 48), u64(bytes, 40), u64(bytes, 32)};
  const bool agrees = (short_form.count == 0xFFFF || short_form.count == directory.count) &&
                      (short_form.size == kSeeZip64 || short_form.size == directory.size) &&
                      (short_form.offset == kSeeZip64 || short_form.offset == directory.offset);
  if (u32(bytes, 0) != kZip64EndRecord || !agrees || directory.offset > record ||
      record - directory.offset != directory.size) {
    refuse("zip64 sizes that contradict the archive");
  }
  return directory;
}

ZipReader::Entry ZipReader::parse_entry(const std::string& directory, std::size_t& at) const {
  if (directory.size() - at < kCentralHeaderSize || u32(directory, at) != kCentralHeader) refuse("a damaged directory");
  const std::size_t name_size = u16(directory, at + 28), extra_size = u16(directory, at + 30);
  const std::size_t whole = kCentralHeaderSize + name_size + extra_size + u16(directory, at + 32);
  if (directory.size() - at < whole) refuse("a damaged directory");
  Entry entry;
  entry.name = directory.substr(at + kCentralHeaderSize, name_size);
  entry.method = u16(directory, at + 10);
  entry.crc = u32(directory, at + 16);
  entry.size = u32(directory, at + 24);
  entry.header_offset = u32(directory, at + 42);
  entry.stored_size = u32(directory, at + 20);
  const std::string shown = "record '" + printable(entry.name) + "'";
  if (!is_safe_name(entry.name)) refuse(shown + ", whose name leaves the archive");
  constexpr std::uint32_t kFileKind = 0xF000, kSymbolicLink = 0xA000;
  if (((u32(directory, at + 38) >> 16) & kFileKind) == kSymbolicLink) refuse(shown + ", a symbolic link");
  if (u16(directory, at + 8) & kEncrypted) refuse(shown + ", which is encrypted");
  read_zip64_sizes(directory.substr(at + kCentralHeaderSize + name_size, extra_size), entry);
  if (entry.method == 0 && entry.stored_size != entry.size) refuse(shown + " with two sizes");
  at += whole;
  return entry;
}

void ZipReader::read_zip64_sizes(const std::string& extra, Entry& entry) const {
  for (std::size_t at = 0; at + 4 <= extra.size();) {
    const std::size_t size = u16(extra, at + 2);
    if (size > extra.size() - at - 4) refuse("a damaged extra field of '" + printable(entry.name) + "'");
    if (u16(extra, at) == kZip64Extra) {
      std::size_t field = at + 4;
      for (std::uint64_t* value : {&entry.size, &entry.stored_size, &entry.header_offset}) {
        if (*value != kSeeZip64) continue;
        if (field + 8 > at + 4 + size) refuse("zip64 sizes missing for '" + printable(entry.name) + "'");
        *value = u64(extra, field);
        field += 8;
      }
    }
    at += 4 + size;
  }
}

void ZipReader::check_local_header(Entry& entry) const {
  const std::string shown = "record '" + printable(entry.name) + "'";
  if (entry.header_offset > file_.size() || file_.size() - entry.header_offset < kLocalHeaderSize)
    refuse(shown + " past its end");
  const std::string header = file_.read_string(entry.header_offset, kLocalHeaderSize);
  const std::size_t name_size = u16(header, 26);
  if (u32(header, 0) != kLocalHeader || name_size != entry.name.size() ||
      file_.read_string(entry.header_offset + kLocalHeaderSize, name_size) != entry.name) {
    refuse(shown + " under another name in its own header");
  }
  const std::uint16_t flags = u16(header, 6);
  if (flags & kEncrypted) refuse(shown + ", which is encrypted");
  if (u16(header, 8) != entry.method) refuse(shown + " with two ways of compression");
  if (!(flags & kSizesAfterData) && u32(header, 14) != entry.crc) refuse(shown + " with two checksums");
  entry.data_offset = entry.header_offset + kLocalHeaderSize + name_size + u16(header, 28);
  if (entry.data_offset > file_.size() || entry.stored_size > file_.size() - entry.data_offset)
    refuse(shown + " past its end");
}

void ZipReader::check_overlaps(std::uint64_t directory_offset) const {
  std::vector<const Entry*> ordered;
  for (const auto& [name, entry] : entries_) ordered.push_back(&entry);
  std::sort(ordered.begin(), ordered.end(),
            [](const Entry* a, const Entry* b) { return a->header_offset < b->header_offset; });
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    const std::uint64_t next = i + 1 < ordered.size() ? ordered[i + 1]->header_offset : directory_offset;
    if (ordered[i]->data_offset + ordered[i]->stored_size > next)
      refuse(cat("record '", printable(ordered[i]->name), "' over another"));
  }
}

std::vector<std::string> ZipReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const ZipReader::Entry& ZipReader::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) refuse("no record '" + printable(name) + "'");
  return found->second;
}

void ZipReader::read(const std::string& name, std::span<std::byte> out) const {
  const Entry& from = entry(name);
  if (from.method != 0) refuse("record '" + printable(name) + "', which is compressed");
  file_.read(from.data_offset, out);
  if (out.size() != from.size || crc32(out) != from.crc)
    refuse("record '" + printable(name) + "' with a wrong checksum");
}

std::string ZipReader::read_text(const std::string& name, std::uint64_t limit) const {
  if (entry(name).method != 0) refuse("record '" + printable(name) + "', which is compressed");
  if (size(name) > limit) refuse(cat("record '", printable(name), "' of ", size(name), " bytes"));
  std::string text(size(name), '\0');
  read(name, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace ldmtune::store
