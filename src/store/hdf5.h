#pragma once
// HDF5's C API, each call wrapped once and checked. Only store includes this header (it includes hdf5.h).

#include <ATen/ATen.h>
#include <hdf5.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace ldmtune::store::hdf5 {

/// The library is not thread-safe as Debian builds it: every public function of store that calls it holds this lock.
class Lock {
 public:
  Lock();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// Owns an identifier of any kind.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id() = default;
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  ~Id() { reset(); }
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  operator hid_t() const { return id_; }
  /// Closes now; negative if the library could not (a write at closing failed).
  herr_t reset() { return id_ < 0 ? 0 : close_(std::exchange(id_, H5I_INVALID_HID)); }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// The innermost message of HDF5's error stack, which is cleared.
std::string last_error();

/// Throws Error with HDF5's reason if the call failed.
void check(herr_t status, const std::string& what, const char* action);
/// The identifier, closed at the end; Error if the call failed.
Id check_id(hid_t id, Id::Close close, const std::string& what, const char* action);
/// As check_id, but InputError: for files that others made.
Id check_input(hid_t id, Id::Close close, const std::string& what, const char* expected);
Id property_list(hid_t kind);
Id dataspace(at::IntArrayRef shape);

/// Which metadata a new file has: `checksummed` (superblock 3) reports every flipped bit, but stays marked as open if
/// its writer is killed; `reopenable` (superblock 2) can be read after any flush.
enum class Format { checksummed, reopenable };
/// A new file that HDF5 1.10 reads, without time stamps.
Id create_file(const std::filesystem::path& file, Format format);
/// Read-only, `checksummed` only: older metadata can crash the library if damaged. InputError naming the file.
Id open_file(const std::filesystem::path& file);
/// A group without time stamps. `what` names file and object in errors.
Id create_group(hid_t parent, const std::string& name, const std::string& what);
/// InputError if there is no such group.
Id open_group(hid_t parent, const std::string& name, const std::string& what);

/// Rows of `tensor` (its first dimension) that one chunk holds; 0 makes the dataset contiguous, without checksums.
/// Chunked datasets carry fletcher32. The tensor must be contiguous on the CPU.
void write_dataset(hid_t parent, const std::string& name, const at::Tensor& tensor, std::int64_t chunk_rows,
                   const std::string& what);

void write_attribute(hid_t object, const std::string& name, const std::string& text, const std::string& what);
void write_attribute(hid_t object, const std::string& name, const std::vector<double>& values, bool scalar,
                     const std::string& what);
void write_attribute(hid_t object, const std::string& name, std::int64_t value, const std::string& what);

/// InputError if missing or of another type.
std::string read_text_attribute(hid_t object, const std::string& name, const std::string& what);
std::int64_t read_integer_attribute(hid_t object, const std::string& name, const std::string& what);

/// The file's type for a dtype: little-endian, float16 as IEEE half. Throws for dtypes that HDF5 lacks.
Id file_type(at::ScalarType dtype);

/// Names of a group's links, sorted. InputError for links that are not hard ones (soft and external links) and above
/// `limit`.
std::vector<std::string> link_names(hid_t group, std::size_t limit, const std::string& what);

/// An open dataset of checked type and rank, whose bytes are all there and carry checksums.
struct Dataset {
  Id id;
  std::vector<std::int64_t> shape;
  at::ScalarType dtype;
};

/// Opens a hard-linked dataset: it must have `dtype` and `rank`, and be chunked by whole rows with fletcher32 as its
/// only filter, stored in this file and complete. Errors: InputError saying `what` and what is wrong.
Dataset open_dataset(hid_t group, const std::string& name, at::ScalarType dtype, int rank, const std::string& what);

/// Rows [first, first + count) into a contiguous CPU tensor of the dataset's dtype. InputError if a checksum does not
/// hold.
at::Tensor read_rows(const Dataset& dataset, std::int64_t first, std::int64_t count, const std::string& what);

}  // namespace ldmtune::store::hdf5
