#include <algorithm>

#include "core/error.h"
#include "store/file_io.h"
#include "store/hdf5.h"

namespace ldmtune::store::hdf5 {
namespace {

constexpr std::int64_t kLargestChunk = std::int64_t{64} << 20;
constexpr std::size_t kLongestTextAttribute = 1 << 20;

std::vector<std::int64_t> dataset_shape(hid_t dataset, int rank, const std::string& what) {
  const Id space = check_input(H5Dget_space(dataset), H5Sclose, what, "a dataspace");
  if (H5Sget_simple_extent_type(space) != H5S_SIMPLE || H5Sget_simple_extent_ndims(space) != rank) {
    fail_input(what, ": expected ", rank, " dimensions, found ", H5Sget_simple_extent_ndims(space), ".");
  }
  std::vector<hsize_t> dimensions(static_cast<std::size_t>(rank));
  H5Sget_simple_extent_dims(space, dimensions.data(), nullptr);
  for (const hsize_t dimension : dimensions) {
    if (dimension < 1 || dimension > INT32_MAX)
      fail_input(what, ": expected dimensions from 1 to 2^31, found ", dimension, ".");
  }
  return {dimensions.begin(), dimensions.end()};
}

/// Bytes of the rows, bounded by the file's size before anything is allocated.
std::uint64_t stored_bytes(hid_t dataset, const std::vector<std::int64_t>& shape, at::ScalarType dtype,
                           const std::string& what) {
  std::uint64_t bytes = c10::elementSize(dtype);
  bool overflow = false;
  for (const std::int64_t size : shape)
    overflow |= __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes);
  const std::uint64_t stored = H5Dget_storage_size(dataset);
  if (overflow || stored < bytes) {
    fail_input(what, ": expected ", overflow ? "more than 2^64" : std::to_string(bytes), " bytes for its shape, found ",
               stored, " in the file. The part is damaged or not completely written.");
  }
  return bytes;
}

/// Chunks of whole rows with fletcher32 and nothing else: no compression to explode, no plug-in to load, no storage
/// elsewhere.
void check_layout(hid_t dataset, const std::vector<std::int64_t>& shape, at::ScalarType dtype,
                  const std::string& what) {
  const Id properties = check_input(H5Dget_create_plist(dataset), H5Pclose, what, "creation properties");
  if (H5Pget_layout(properties) != H5D_CHUNKED) {
    fail_input(
        what,
        ": expected chunked storage with fletcher32, found another layout. Write the part with chunks of one sample.");
  }
  unsigned flags = 0, filter_config = 0;
  std::size_t values = 0;
  const int filters = H5Pget_nfilters(properties);
  if (filters != 1 ||
      H5Pget_filter2(properties, 0, &flags, &values, nullptr, 0, nullptr, &filter_config) != H5Z_FILTER_FLETCHER32) {
    fail_input(what, ": expected fletcher32 as its only filter, found ", filters,
               " filters. Write it without compression.");
  }
  std::vector<hsize_t> chunk(shape.size());
  if (H5Pget_chunk(properties, static_cast<int>(chunk.size()), chunk.data()) != static_cast<int>(chunk.size())) {
    fail_input(what, ": expected chunks of ", shape.size(), " dimensions.");
  }
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(dtype));
  bool whole = chunk[0] >= 1 && chunk[0] <= static_cast<hsize_t>(shape[0]);
  for (std::size_t i = 0; i < chunk.size(); ++i) {
    if (i > 0) whole &= chunk[i] == static_cast<hsize_t>(shape[i]);
    whole &= !__builtin_mul_overflow(bytes, static_cast<std::int64_t>(chunk[i]), &bytes) && bytes <= kLargestChunk;
  }
  if (!whole) fail_input(what, ": expected chunks of whole samples of at most ", kLargestChunk, " bytes.");
}

herr_t collect_name(hid_t, const char* name, const H5L_info_t* info, void* names) {
  static_cast<std::vector<std::pair<std::string, H5L_type_t>>*>(names)->emplace_back(name, info->type);
  return 0;
}

}  // namespace

std::string read_text_attribute(hid_t object, const std::string& name, const std::string& what) {
  const Id attribute =
      check_input(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, what, ("an attribute " + name).c_str());
  const Id type = check_input(H5Aget_type(attribute), H5Tclose, what, "an attribute's type");
  const Id space = check_input(H5Aget_space(attribute), H5Sclose, what, "an attribute's space");
  const std::size_t size = H5Tget_size(type);
  // Variable-length text lies in a heap without checksums.
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || H5Sget_simple_extent_npoints(space) != 1 ||
      size > kLongestTextAttribute) {
    fail_input(what, ": expected attribute ", name, " to be one text of fixed length.");
  }
  std::string text(size, '\0');
  if (H5Aread(attribute, type, text.data()) < 0)
    fail_input(what, ": cannot read attribute ", name, ": ", last_error(), ".");
  return text.c_str();
}

std::int64_t read_integer_attribute(hid_t object, const std::string& name, const std::string& what) {
  const Id attribute =
      check_input(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, what, ("an attribute " + name).c_str());
  const Id type = check_input(H5Aget_type(attribute), H5Tclose, what, "an attribute's type");
  const Id space = check_input(H5Aget_space(attribute), H5Sclose, what, "an attribute's space");
  std::int64_t value = 0;
  if (H5Tget_class(type) != H5T_INTEGER || H5Sget_simple_extent_npoints(space) != 1 ||
      H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0) {
    fail_input(what, ": expected attribute ", name, " to be one integer.");
  }
  return value;
}

std::vector<std::string> link_names(hid_t group, std::size_t limit, const std::string& what) {
  H5G_info_t info;
  if (H5Gget_info(group, &info) < 0) fail_input(what, ": expected a group, found: ", last_error(), ".");
  if (info.nlinks > limit) fail_input(what, ": expected at most ", limit, " links, found ", info.nlinks, ".");
  std::vector<std::pair<std::string, H5L_type_t>> links;
  if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect_name, &links) < 0) {
    fail_input(what, ": cannot list its links: ", last_error(), ".");
  }
  std::vector<std::string> names;
  for (const auto& [name, type] : links) {
    if (type != H5L_TYPE_HARD) {
      fail_input(what, "/", printable(name), ": expected an object of this file, found a soft or external link.");
    }
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Dataset open_dataset(hid_t group, const std::string& name, at::ScalarType dtype, int rank, const std::string& what) {
  Dataset dataset{check_input(H5Dopen2(group, name.c_str(), H5P_DEFAULT), H5Dclose, what, "a dataset"), {}, dtype};
  const Id stored = check_input(H5Dget_type(dataset.id), H5Tclose, what, "a type");
  if (H5Tequal(stored, file_type(dtype)) <= 0) {
    fail_input(what, ": expected little-endian ", c10::toString(dtype), " values, found another type.");
  }
  dataset.shape = dataset_shape(dataset.id, rank, what);
  check_layout(dataset.id, dataset.shape, dtype, what);
  stored_bytes(dataset.id, dataset.shape, dtype, what);
  return dataset;
}

at::Tensor read_rows(const Dataset& dataset, std::int64_t first, std::int64_t count, const std::string& what) {
  std::vector<std::int64_t> shape = dataset.shape;
  TORCH_CHECK(first >= 0 && count >= 1 && first + count <= shape[0], "rows past the end of ", what);
  shape[0] = count;
  at::Tensor rows = at::empty(shape, at::TensorOptions().dtype(dataset.dtype));
  std::vector<hsize_t> start(shape.size(), 0), extent(shape.begin(), shape.end());
  start[0] = static_cast<hsize_t>(first);
  const Id file_space = check_input(H5Dget_space(dataset.id), H5Sclose, what, "a dataspace");
  const Id memory_space = dataspace(shape);
  if (H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr) < 0 ||
      H5Dread(dataset.id, file_type(dataset.dtype), memory_space, file_space, H5P_DEFAULT, rows.data_ptr()) < 0) {
    fail_input(what, ": cannot read row", count == 1 ? " " : "s from ", first, ": ", last_error(),
               ". The part is damaged (its checksum does not hold): copy or prepare it again.");
  }
  return rows;
}

}  // namespace ldmtune::store::hdf5
