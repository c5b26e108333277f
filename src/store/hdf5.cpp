#include "store/hdf5.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "store/file_io.h"

namespace ldmtune::store::hdf5 {
namespace {

constexpr std::int64_t kLargestChunk = std::int64_t{64} << 20;
constexpr std::size_t kLongestTextAttribute = 1 << 20;

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

/// Throws Error with HDF5's reason if the call failed.
void check(herr_t status, const std::string& what, const char* action) {
  if (status < 0) fail(what, ": cannot ", action, ": ", last_error(), ".");
}

Id check_id(hid_t id, Id::Close close, const std::string& what, const char* action) {
  if (id < 0) fail(what, ": cannot ", action, ": ", last_error(), ".");
  return Id(id, close);
}

/// As check_id, for files that others made.
Id check_input(hid_t id, Id::Close close, const std::string& what, const char* expected) {
  if (id < 0) fail_input(what, ": expected ", expected, ", found none that HDF5 can open (", last_error(), ").");
  return Id(id, close);
}

Id property_list(hid_t kind) { return check_id(H5Pcreate(kind), H5Pclose, "HDF5", "create a property list"); }

Id dataspace(at::IntArrayRef shape) {
  const std::vector<hsize_t> dimensions(shape.begin(), shape.end());
  const hid_t id = dimensions.empty()
                       ? H5Screate(H5S_SCALAR)
                       : H5Screate_simple(static_cast<int>(dimensions.size()), dimensions.data(), nullptr);
  return check_id(id, H5Sclose, "HDF5", "create a dataspace");
}

/// IEEE binary16, which HDF5 1.10 has no name for: sign 1, exponent 5 (bias 15), mantissa 10 bits.
Id half_type() {
  Id type = check_id(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, "HDF5", "copy a type");
  const bool made = H5Tset_fields(type, 15, 10, 5, 0, 10) >= 0 && H5Tset_precision(type, 16) >= 0 &&
                    H5Tset_ebias(type, 15) >= 0 && H5Tset_size(type, 2) >= 0;
  if (!made) fail("HDF5: cannot make the float16 type: ", last_error(), ".");
  return type;
}

/// Which of HDF5's little-endian types holds the dtype.
hid_t named_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
    case at::kBool:
      return H5T_STD_U8LE;
    case at::kChar:
      return H5T_STD_I8LE;
    case at::kShort:
      return H5T_STD_I16LE;
    case at::kInt:
      return H5T_STD_I32LE;
    case at::kLong:
      return H5T_STD_I64LE;
    case at::kUInt64:
      return H5T_STD_U64LE;
    case at::kFloat:
      return H5T_IEEE_F32LE;
    case at::kDouble:
      return H5T_IEEE_F64LE;
    default:
      fail("HDF5: no type for ", c10::toString(dtype));
  }
}

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

Lock::Lock() : lock_(library_mutex()) {
  // The library prints its error stack to stderr unless told otherwise; ours goes into the exception.
  static const herr_t silenced = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  static_cast<void>(silenced);
}

std::string last_error() {
  std::string text;
  const auto keep_first = [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
    if (n == 0 && error->desc) *static_cast<std::string*>(out) = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "no reason given" : printable(text, 200);
}

Id create_file(const std::filesystem::path& file, Format format) {
  const Id creation = property_list(H5P_FILE_CREATE), access = property_list(H5P_FILE_ACCESS);
  const auto lowest = format == Format::checksummed ? H5F_LIBVER_V110 : H5F_LIBVER_V18;
  check(H5Pset_obj_track_times(creation, false), file.string(), "set properties");
  check(H5Pset_libver_bounds(access, lowest, H5F_LIBVER_V110), file.string(), "set properties");
  return check_id(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, file.string(), "create the file");
}

Id open_file(const std::filesystem::path& file) {
  const InputFile input(file);
  const std::string start = input.read_string(0, std::min<std::uint64_t>(input.size(), 9));
  if (start.size() < 9 || start.substr(0, 8) != "\x89HDF\r\n\x1a\n") {
    fail_input(file, ": expected an HDF5 file, found another format. Is it the right file?");
  }
  if (start[8] != 3) {
    fail_input(file, ": expected HDF5's newer file format (superblock 3), found version ", static_cast<int>(start[8]),
               ". Write it with libver='v110'.");
  }
  const Id access = property_list(H5P_FILE_ACCESS);
#if H5_VERSION_GE(1, 10, 7)
  // Parallel file systems without locks are common, and nobody writes to a finished part.
  H5Pset_file_locking(access, false, true);
#endif
  return check_input(H5Fopen(file.c_str(), H5F_ACC_RDONLY, access), H5Fclose, file.string(), "a whole HDF5 file");
}

Id create_group(hid_t parent, const std::string& name, const std::string& what) {
  const Id creation = property_list(H5P_GROUP_CREATE);
  check(H5Pset_obj_track_times(creation, false), what, "set properties");
  return check_id(H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose, what,
                  "create the group");
}

Id open_group(hid_t parent, const std::string& name, const std::string& what) {
  return check_input(H5Gopen2(parent, name.c_str(), H5P_DEFAULT), H5Gclose, what, "a group");
}

Id file_type(at::ScalarType dtype) {
  if (dtype == at::kHalf) return half_type();
  return check_id(H5Tcopy(named_type(dtype)), H5Tclose, "HDF5", "copy a type");
}

void write_dataset(hid_t parent, const std::string& name, const at::Tensor& tensor, std::int64_t chunk_rows,
                   const std::string& what) {
  const Id type = file_type(tensor.scalar_type());
  const Id space = dataspace(tensor.sizes());
  const Id creation = property_list(H5P_DATASET_CREATE);
  check(H5Pset_obj_track_times(creation, false), what, "set properties");
  if (chunk_rows > 0) {
    std::vector<hsize_t> chunk(tensor.sizes().begin(), tensor.sizes().end());
    chunk[0] = static_cast<hsize_t>(std::min(chunk_rows, tensor.size(0)));
    check(H5Pset_chunk(creation, static_cast<int>(chunk.size()), chunk.data()), what, "set chunks");
    check(H5Pset_fletcher32(creation), what, "set checksums");
  }
  const Id dataset = check_id(H5Dcreate2(parent, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT),
                              H5Dclose, what, "create the dataset");
  if (tensor.numel() == 0) return;
  check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.const_data_ptr()), what, "write the dataset");
}

void write_attribute(hid_t object, const std::string& name, const std::string& text, const std::string& what) {
  const Id type = check_id(H5Tcopy(H5T_C_S1), H5Tclose, what, "copy a type");
  check(H5Tset_size(type, std::max<std::size_t>(text.size(), 1)), what, "size a text type");
  check(H5Tset_cset(type, H5T_CSET_UTF8), what, "set a character set");
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), what, "set padding");
  const Id space = dataspace({});
  const Id attribute = check_id(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what,
                                "create an attribute");
  check(H5Awrite(attribute, type, text.c_str()), what, "write an attribute");
}

void write_attribute(hid_t object, const std::string& name, const std::vector<double>& values, bool scalar,
                     const std::string& what) {
  const Id space = scalar ? dataspace({}) : dataspace({static_cast<std::int64_t>(values.size())});
  const Id attribute = check_id(H5Acreate2(object, name.c_str(), H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT),
                                H5Aclose, what, "create an attribute");
  check(H5Awrite(attribute, H5T_NATIVE_DOUBLE, values.data()), what, "write an attribute");
}

void write_attribute(hid_t object, const std::string& name, std::int64_t value, const std::string& what) {
  const Id space = dataspace({});
  const Id attribute = check_id(H5Acreate2(object, name.c_str(), H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT),
                                H5Aclose, what, "create an attribute");
  check(H5Awrite(attribute, H5T_NATIVE_INT64, &value), what, "write an attribute");
}

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
