#pragma once
// Writes an HDF5 file of named tensors and attributes, without hdf5.h: the audit trace, sample traces.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace ldmtune::store {

/// A new HDF5 file. Paths are "/group/.../name"; groups on the way are created. Datasets are contiguous; the same calls
/// give the same bytes (no time stamps). Errors: Error naming file and path (disk full, a path written twice ...).
class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& file);
  ~Hdf5Writer();
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  /// Any device and strides; float64, float32, float16, integers, bool (as uint8). bfloat16 is widened to float32,
  /// exactly.
  void write(const std::string& path, const at::Tensor& tensor);
  /// Creates the group (or leaves it as it is).
  void group(const std::string& path);
  /// Attributes of a group or dataset, which must exist; "/" is the file itself.
  void attribute(const std::string& path, const std::string& name, double value);
  void attribute(const std::string& path, const std::string& name, std::int64_t value);
  void attribute(const std::string& path, const std::string& name, const std::string& text);
  void attribute(const std::string& path, const std::string& name, const std::vector<double>& values);
  /// Hands everything written so far to the operating system: another program can open the file even if this one is
  /// killed afterwards.
  void flush();
  /// Flushes, closes and reports errors, which the destructor cannot. No writes afterwards.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ldmtune::store
