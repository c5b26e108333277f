#pragma once
// Tensors as bytes that ranks exchange; both sides know the shapes.

#include <ATen/ATen.h>

#include <string>
#include <string_view>

namespace ldmtune::pipeline {

/// Appends the values, contiguous, on the CPU, in this machine's byte order.
void append_bytes(std::string& bytes, const at::Tensor& tensor);

/// Takes tensors from the front of bytes in the order in which they were appended.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}
  /// A copy. Errors: Error if fewer bytes are left.
  at::Tensor take(at::IntArrayRef shape, at::ScalarType dtype);
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace ldmtune::pipeline
