#pragma once
// safetensors (github.com/huggingface/safetensors): u64 header length, JSON header, tensor bytes.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "store/tensor_map.h"

namespace ldmtune::store {

using Metadata = std::map<std::string, std::string>;

struct SafetensorsFile {
  TensorMap tensors;
  Metadata metadata;
};

/// Reads every tensor (contiguous CPU, the file's dtype), each straight from the file into its own memory.
/// Errors: InputError naming the file and the place for anything malformed (overlaps, holes, trailing bytes,
/// duplicate names, wrong sizes, unknown dtypes, headers past the file ...).
SafetensorsFile read_safetensors(const std::filesystem::path& file);

/// Names, dtypes and shapes only: the header, checked as in read_safetensors, without the bytes.
struct TensorInfo {
  std::string name;
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
};
std::vector<TensorInfo> read_safetensors_header(const std::filesystem::path& file, Metadata* metadata = nullptr);

/// Reads all tensors of a folder's `<stem>[.variant].safetensors`, or of the shards that
/// `<stem>.safetensors.index[.variant].json` names. Where the folder has no file of that variant, the plain one is
/// read, with a warning in the log. Errors: InputError if neither is there, or a shard lacks a tensor of the index or
/// holds one of another shard.
TensorMap read_sharded_safetensors(const std::filesystem::path& folder, const std::string& stem,
                                   const std::string& variant);

/// sha256 of the tensors' bytes as the file holds them, without its header: what kohya's scripts and AUTOMATIC1111 know
/// a LoRA by, whatever its metadata says.
std::string sha256_safetensors_data(const std::filesystem::path& file);

/// InputError naming the file and the first tensor that holds a NaN or an infinity.
void check_finite(const TensorMap& tensors, const std::filesystem::path& file);

/// Writes atomically (temporary file beside, fsync, rename); tensors in order of decreasing alignment, then name, as
/// the reference implementation does. Same tensors and metadata give the same bytes.
void write_safetensors(const std::filesystem::path& file, const TensorMap& tensors, const Metadata& metadata = {});

}  // namespace ldmtune::store
