#include "train/tensor_bytes.h"

#include <cstdint>
#include <cstring>

namespace ldmtune::train {
namespace {

void put(std::string& out, std::int64_t value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

std::int64_t get(const std::string& bytes, std::size_t& at) {
  std::int64_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  at += sizeof value;
  return value;
}

}  // namespace

std::string pack_tensors(const NamedTensors& tensors) {
  std::string out;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor data = tensor.detach().to(at::kCPU).contiguous();
    put(out, static_cast<std::int64_t>(name.size()));
    out += name;
    put(out, static_cast<std::int64_t>(data.scalar_type()));
    put(out, data.dim());
    for (const std::int64_t size : data.sizes()) put(out, size);
    out.append(static_cast<const char*>(data.const_data_ptr()), data.nbytes());
  }
  return out;
}

NamedTensors unpack_tensors(const std::string& bytes) {
  NamedTensors tensors;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = static_cast<std::size_t>(get(bytes, at));
    std::string name = bytes.substr(at, length);
    at += length;
    const auto dtype = static_cast<at::ScalarType>(get(bytes, at));
    std::vector<std::int64_t> shape(static_cast<std::size_t>(get(bytes, at)));
    for (std::int64_t& size : shape) size = get(bytes, at);
    at::Tensor data = at::empty(shape, dtype);
    std::memcpy(data.data_ptr(), bytes.data() + at, data.nbytes());
    at += data.nbytes();
    tensors.emplace_back(std::move(name), std::move(data));
  }
  return tensors;
}

}  // namespace ldmtune::train
