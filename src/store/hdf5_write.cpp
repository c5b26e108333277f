#include <algorithm>

#include "store/hdf5.h"

namespace ldmtune::store::hdf5 {

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

}  // namespace ldmtune::store::hdf5
