#include "store/torch_file.h"

#include <algorithm>

#include "core/error.h"
#include "store/file_io.h"
#include "store/files.h"
#include "store/pickle.h"
#include "store/zip_archive.h"

namespace ldmtune::store {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLargestPickle = std::uint64_t{64} << 20;

/// How a legacy file starts: pickles of torch's magic number and of protocol version 1001.
const std::string kLegacyStart("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e\x80\x02\x4d\xe9\x03\x2e",
                               21);

at::Tensor empty_storage(const fs::path& file, const StorageReference& reference, std::uint64_t bytes_there) {
  const auto element = static_cast<std::uint64_t>(c10::elementSize(reference.dtype));
  const auto numel = static_cast<std::uint64_t>(reference.numel);
  if (bytes_there % element != 0 || bytes_there / element != numel) {
    fail_input(file, ": storage '", printable(reference.key), "': expected ", numel, " elements of ", element,
               " bytes, found ", bytes_there, " bytes. The file is damaged.");
  }
  return at::empty({reference.numel}, at::TensorOptions().dtype(reference.dtype));
}

std::span<std::byte> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

/// Memory that holds anything but 0 and 1 is no array of C++ booleans.
void check_booleans(const fs::path& file, at::Tensor& storage) {
  if (storage.scalar_type() != at::kBool) return;
  const auto bytes = bytes_of(storage);
  if (std::any_of(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; })) {
    fail_input(file, ": expected booleans of 0 or 1, found another value. The file is damaged.");
  }
}

/// The folder inside the archive that holds data.pkl.
std::string archive_root(const ZipReader& zip) {
  std::string root;
  for (const std::string& name : zip.names()) {
    const std::size_t slash = name.find('/');
    if (slash == std::string::npos) continue;
    const std::string rest = name.substr(slash + 1);
    if (rest == "constants.pkl" || rest.starts_with("code/")) {
      fail_input(zip.path(), ": expected weights, found a TorchScript program. Save the state_dict with torch.save.");
    }
    if (rest != "data.pkl") continue;
    if (!root.empty()) fail_input(zip.path(), ": expected one data.pkl, found two.");
    root = name.substr(0, slash + 1);
  }
  if (root.empty()) fail_input(zip.path(), ": expected an archive of torch.save with data.pkl, found none.");
  return root;
}

PyValue read_zip(const fs::path& file) {
  const ZipReader zip(file);
  const std::string root = archive_root(zip);
  if (zip.contains(root + "byteorder") && zip.read_text(root + "byteorder", 16) != "little") {
    fail_input(file, ": expected little-endian tensors, found another byte order. Save it on another machine.");
  }
  const std::string bytes = zip.read_text(root + "data.pkl", kLargestPickle);
  Unpickler unpickler(bytes, 0, file.string());
  unpickler.run();
  if (unpickler.end() != bytes.size()) fail_input(file, ": expected one pickle in data.pkl, found bytes after it.");
  return unpickler.value([&](const StorageReference& reference) {
    const std::string record = root + "data/" + reference.key;
    at::Tensor storage = empty_storage(file, reference, zip.size(record));
    zip.read(record, bytes_of(storage));
    check_booleans(file, storage);
    return storage;
  });
}

[[noreturn]] void fail_legacy(const fs::path& file, const char* expected) {
  fail_input(file, ": expected ", expected,
             " in a torch file of the older format. The file is damaged: fetch it again.");
}

/// A pickle without tensors at `start`, which moves behind it.
PyValue read_plain(const std::string& bytes, std::size_t& start, const fs::path& file) {
  Unpickler unpickler(bytes, start, file.string());
  unpickler.run();
  start = unpickler.end();
  return unpickler.value([&](const StorageReference&) -> at::Tensor { fail_legacy(file, "no tensors in the header"); });
}

/// Where each storage's element count and bytes lie: one after the other in the order of `keys`.
std::map<std::string, std::uint64_t> storage_offsets(const InputFile& input, const PyValue& keys, std::uint64_t start,
                                                     const std::map<std::string, StorageReference>& storages) {
  const PyList* list = keys.get_if<PyList>();
  if (!list || list->items.size() != storages.size()) fail_legacy(input.path(), "a list of all storages");
  std::map<std::string, std::uint64_t> offsets;
  for (const PyValue& item : list->items) {
    const auto* key = item.get_if<std::string>();
    const auto found = key ? storages.find(*key) : storages.end();
    if (found == storages.end() || !offsets.emplace(*key, start).second) fail_legacy(input.path(), "each storage once");
    const auto element = static_cast<std::uint64_t>(c10::elementSize(found->second.dtype));
    const auto numel = static_cast<std::uint64_t>(found->second.numel);
    if (start > input.size() || numel > (input.size() - start) / element)
      fail_legacy(input.path(), "all bytes of its storages");
    start += 8 + numel * element;
  }
  if (start != input.size()) fail_legacy(input.path(), "its storages to reach its end");
  return offsets;
}

PyValue read_legacy(const fs::path& file) {
  const InputFile input(file);
  const std::string bytes = input.read_string(0, std::min(input.size(), kLargestPickle));
  std::size_t at = kLegacyStart.size();
  const PyValue system = read_plain(bytes, at, file);
  const PyDict* system_facts = system.get_if<PyDict>();
  const PyValue* little = system_facts ? system_facts->find("little_endian") : nullptr;
  if (!little || !little->get_if<bool>() || !*little->get_if<bool>()) fail_legacy(file, "little-endian tensors");
  Unpickler unpickler(bytes, at, file.string());
  unpickler.run();
  at = unpickler.end();
  const PyValue keys = read_plain(bytes, at, file);
  const auto offsets = storage_offsets(input, keys, at, unpickler.storages());
  return unpickler.value([&](const StorageReference& reference) {
    const std::uint64_t offset = offsets.at(reference.key);
    std::int64_t numel = 0;
    input.read(offset, std::as_writable_bytes(std::span(&numel, 1)));
    if (numel != reference.numel) fail_legacy(file, "storages of the sizes its pickle names");
    at::Tensor storage = at::empty({numel}, at::TensorOptions().dtype(reference.dtype));
    input.read(offset + 8, bytes_of(storage));
    check_booleans(file, storage);
    return storage;
  });
}

/// What a file that is no torch file may be.
std::string describe(const std::string& start) {
  if (start.size() > 262 && start.substr(257, 5) == "ustar") return "a tar archive (torch before 0.1.10)";
  if (start.starts_with("7z\xBC\xAF\x27\x1C")) return "a 7z archive";
  if (start.starts_with("\x80")) return "another pickle than torch.save's";
  if (start.size() > 9 && start[8] == '{') return "a safetensors file, it seems: name it .safetensors";
  return start.empty() ? "an empty file" : "'" + printable(start.substr(0, 8)) + "' at its start";
}

/// torch names the archive's folder after the file. Names outside of ASCII would need a flag that old readers lack.
std::string archive_name(const fs::path& file) {
  const std::string stem = file.stem().string();
  const bool plain =
      std::all_of(stem.begin(), stem.end(), [](unsigned char c) { return c > 0x20 && c < 0x7F && c != '\\'; });
  return plain && stem.find("..") == std::string::npos ? stem : "archive";
}

template <class Key>
const PyValue* find_key(const PyDict& dict, const Key& key) {
  for (const auto& [candidate, value] : dict.items) {
    const Key* same = std::get_if<Key>(&candidate.data);
    if (same && *same == key) return &value;
  }
  return nullptr;
}

}  // namespace

const PyValue* PyDict::find(const std::string& key) const { return find_key(*this, key); }
const PyValue* PyDict::find(std::int64_t key) const { return find_key(*this, key); }

PyValue read_torch_file(const fs::path& file) {
  const InputFile input(file);
  const std::string start = input.read_string(0, std::min<std::uint64_t>(input.size(), 512));
  if (start.starts_with("PK\x03\x04")) return read_zip(file);
  if (start.starts_with(kLegacyStart)) return read_legacy(file);
  fail_input(file, ": expected a file of torch.save, found ", describe(start), ". Save it with torch.save.");
}

void write_torch_file(const fs::path& file, const PyValue& value) {
  std::vector<at::Tensor> tensors;
  const std::string root = archive_name(file) + "/", bytes = pickle(value, tensors);
  write_atomically(file, [&](const fs::path& temporary) {
    OutputFile out(temporary);
    ZipWriter zip(out);
    zip.add(root + "data.pkl", bytes);
    zip.add(root + "byteorder", "little");
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      zip.add(root + "data/" + std::to_string(i),
              {static_cast<const std::byte*>(tensors[i].const_data_ptr()), tensors[i].nbytes()});
    }
    zip.add(root + "version", "3\n");
    zip.finish();
  });
}

}  // namespace ldmtune::store
