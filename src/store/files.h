#pragma once
// Files that exist whole or not at all, and their checksums.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "store/tensor_map.h"

namespace ldmtune::store {

/// Calls `write` with a temporary path beside `file`, fsyncs what it wrote, and renames it to `file` (and fsyncs the
/// folder). If `write` throws, the temporary is removed and `file` is as it was.
void write_atomically(const std::filesystem::path& file,
                      const std::function<void(const std::filesystem::path& temporary)>& write);
void write_text(const std::filesystem::path& file, const std::string& text);
/// Whole regular file; InputError if missing, not a regular file, or above `limit` bytes.
std::string read_text(const std::filesystem::path& file, std::uintmax_t limit = 256u << 20);
/// Parsed JSON (Python's NaN and Infinity read as null); InputError naming file and place if it is no valid JSON or
/// nests deeper than 100.
nlohmann::json read_json(const std::filesystem::path& file);
void write_json(const std::filesystem::path& file, const nlohmann::json& value);
/// fsync of every file and folder below the folder and of the folder itself.
void sync_folder(const std::filesystem::path& folder);
/// Renames and fsyncs the folder that holds both: after it, `to` survives a crash. Sync the content first.
void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to);

/// Lower-case hex sha256; of a file, of its bytes from `offset` on.
std::string sha256_file(const std::filesystem::path& file, std::uint64_t offset = 0);
std::string sha256_bytes(std::span<const std::byte> bytes);
std::string sha256_text(const std::string& text);
/// Hash of names, shapes and values, the values rounded to fp16 first (little endian), so that fp32 and fp16 variants
/// of the same weights hash alike; integers as int64. Names in map order: name, NUL, "size," for each dimension, NUL,
/// values.
std::string sha256_tensors(const TensorMap& tensors);
/// Hash of names, dtypes, shapes and exact bytes.
std::string sha256_tensors_exact(const TensorMap& tensors);

}  // namespace ldmtune::store
