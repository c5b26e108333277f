#pragma once
// The JSON header of a safetensors file, parsed strictly and checked against the file's size.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "store/safetensors.h"

namespace ldmtune::store {

/// One tensor's entry: where its bytes lie after the header.
struct SafetensorsEntry {
  TensorInfo info;
  std::uint64_t begin = 0, end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in order of their offsets
  Metadata metadata;
};

/// `data_size`: bytes after the header. Errors: InputError naming the file, the tensor, what was expected and found.
SafetensorsHeader parse_safetensors_header(const std::filesystem::path& file, const std::string& json,
                                           std::uint64_t data_size);

/// The format's name of a dtype ("F16"); an empty string if the format has none.
std::string safetensors_dtype(at::ScalarType dtype);
/// Larger comes first in a file, as in the reference implementation.
int safetensors_dtype_order(at::ScalarType dtype);

}  // namespace ldmtune::store
