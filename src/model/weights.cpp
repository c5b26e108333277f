#include "model/weights.h"

#include <sstream>

#include "core/error.h"

namespace ldmtune::model {

namespace {

constexpr std::uintptr_t kAlignment = 64;

at::Tensor aligned(at::Tensor tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  return tensor.is_cpu() && address % kAlignment != 0 ? tensor.clone() : tensor;
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

}  // namespace

Weights::Weights(store::TensorMap tensors, std::string source, at::ScalarType dtype, at::Device device)
    : tensors_(std::move(tensors)), source_(std::move(source)), dtype_(dtype), device_(device) {}

Weights::Weights(Maker make, std::string source, at::ScalarType dtype, at::Device device)
    : make_(std::move(make)), source_(std::move(source)), dtype_(dtype), device_(device) {}

at::Tensor Weights::take(const std::string& key, at::IntArrayRef shape) {
  if (make_ && taken_.count(key) == 0) tensors_.emplace(key, make_(key, shape));
  const auto found = tensors_.find(key);
  if (found == tensors_.end()) {
    if (taken_.count(key) > 0) fail(source_, ": tensor \"", key, "\" was taken twice");
    fail_input(source_, ": tensor \"", key, "\" of shape ", shape_text(shape),
               " is missing; the weights do not belong to this config.json");
  }
  if (found->second.sizes() != shape) {
    fail_input(source_, ": tensor \"", key, "\" has shape ", shape_text(found->second.sizes()), ", expected ",
               shape_text(shape), " by config.json");
  }
  at::Tensor tensor = aligned(found->second.detach().to(device_, dtype_).contiguous());
  tensors_.erase(found);
  taken_.emplace(key, tensor);
  return tensor;
}

bool Weights::contains(const std::string& key) const { return tensors_.count(key) > 0; }

void Weights::expect_all_taken() const {
  if (tensors_.empty()) return;
  constexpr std::size_t kListed = 8;
  std::ostringstream keys;
  std::size_t count = 0;
  for (const auto& entry : tensors_) {
    if (count++ == kListed) break;
    keys << (count > 1 ? ", " : "") << '"' << entry.first << '"';
  }
  if (tensors_.size() > kListed) keys << " ...";
  fail_input(source_, ": ", tensors_.size(),
             " tensors have no place in the model that config.json describes: ", keys.str());
}

}  // namespace ldmtune::model
