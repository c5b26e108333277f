#include "pipeline/bytes.h"

#include <cstring>

#include "core/error.h"

namespace ldmtune::pipeline {

void append_bytes(std::string& bytes, const at::Tensor& tensor) {
  const at::Tensor contiguous = tensor.contiguous().cpu();
  bytes.append(static_cast<const char*>(contiguous.const_data_ptr()), contiguous.nbytes());
}

at::Tensor ByteReader::take(at::IntArrayRef shape, at::ScalarType dtype) {
  at::Tensor tensor = at::empty(shape, dtype);
  if (rest_.size() < tensor.nbytes()) fail("ranks disagree on what they exchange: ", rest_.size(), " bytes left");
  std::memcpy(tensor.mutable_data_ptr(), rest_.data(), tensor.nbytes());
  rest_.remove_prefix(tensor.nbytes());
  return tensor;
}

}  // namespace ldmtune::pipeline
