#include "store/hdf5.h"

#include <algorithm>

#include "core/error.h"
#include "store/file_io.h"

namespace ldmtune::store::hdf5 {
namespace {

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
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

void check(herr_t status, const std::string& what, const char* action) {
  if (status < 0) fail(what, ": cannot ", action, ": ", last_error(), ".");
}

Id check_id(hid_t id, Id::Close close, const std::string& what, const char* action) {
  if (id < 0) fail(what, ": cannot ", action, ": ", last_error(), ".");
  return Id(id, close);
}

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

}  // namespace ldmtune::store::hdf5
