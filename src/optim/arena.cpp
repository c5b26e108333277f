#include "optim/arena.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <set>
#include <utility>

#include "core/error.h"

namespace ldmtune::optim {
namespace {

std::int64_t round_up(std::int64_t elements) {
  return (elements + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

std::int64_t element_count(const ParameterSpec& spec) {
  std::int64_t count = 1;
  for (const std::int64_t size : spec.shape) {
    if (size < 0) fail("parameter '", spec.name, "': expected sizes of 0 or more, found ", size);
    count *= size;
  }
  return count;
}

at::Tensor view_of(const at::Tensor& flat, const ArenaEntry& entry) {
  return flat.narrow(0, entry.offset, entry.elements).view(entry.spec.shape);
}

/// What backward left at a narrower copy goes to the fp32 parameter at once.
struct AddToParameter final : torch::autograd::PostAccumulateGradHook {
  explicit AddToParameter(at::Tensor owner) : parameter(std::move(owner)) {}
  void operator()(const at::Tensor& copy) override {
    const at::NoGradGuard no_grad;
    parameter.mutable_grad().add_(copy.grad());
    copy.mutable_grad().reset();
  }
  at::Tensor parameter;
};

void check_fits(const std::string& name, const at::Tensor& leaf, const at::Tensor& tensor, bool is_right_type,
                const char* type) {
  if (leaf.sizes() == tensor.sizes() && is_right_type && tensor.device() == leaf.device()) return;
  fail("parameter '", name, "': expected ", type, " of shape ", leaf.sizes(), ", found ", tensor.toString(), " of ",
       tensor.sizes());
}

}  // namespace

Arena::Arena(std::vector<ParameterSpec> specs, at::Device device) {
  std::int64_t offset = 0;
  std::set<std::string> names;
  entries_.reserve(specs.size());
  for (ParameterSpec& spec : specs) {
    if (!names.insert(spec.name).second) fail("parameter '", spec.name, "' is laid out twice in one arena");
    ArenaEntry entry{std::move(spec), offset, 0};
    entry.elements = element_count(entry.spec);
    offset = round_up(offset + entry.elements);
    entries_.push_back(std::move(entry));
  }
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  parameters_ = at::zeros({offset}, options);
  // detach() gives leaves that share storage and version with the flat buffer, so that an update of the flat buffer is
  // seen by the leaves, and one between forward and backward is reported by autograd.
  for (const ArenaEntry& entry : entries_) {
    leaves_[entry.spec.name] = view_of(parameters_, entry).detach().requires_grad_(true);
  }
  use_gradients(at::zeros({offset}, options));
}

const at::Tensor& Arena::parameter(const std::string& name) const {
  const auto found = leaves_.find(name);
  if (found == leaves_.end()) fail("the arena holds no parameter '", name, "'");
  return found->second;
}

store::TensorMap Arena::views_of(const at::Tensor& flat) const {
  if (flat.dim() != 1 || flat.numel() != size()) {
    fail("expected a flat buffer of ", size(), " elements, found ", flat.numel(), " in ", flat.dim(), " dimensions");
  }
  store::TensorMap views;
  for (const ArenaEntry& entry : entries_) views.emplace(entry.spec.name, view_of(flat, entry));
  return views;
}

store::TensorMap Arena::parameter_views() const { return views_of(parameters_); }

store::TensorMap Arena::gradient_views() const { return views_of(gradients_); }

void Arena::use_gradients(at::Tensor flat) {
  if (flat.dim() != 1 || flat.numel() != size() || flat.scalar_type() != at::kFloat || !flat.is_contiguous()) {
    fail("expected a contiguous flat f32 gradient buffer of ", size(), " elements, found ", flat.toString(), " of ",
         flat.numel());
  }
  const at::NoGradGuard no_grad;
  gradients_ = std::move(flat);
  // A defined .grad() is what backward adds into, in place.
  for (const ArenaEntry& entry : entries_) leaves_.at(entry.spec.name).mutable_grad() = view_of(gradients_, entry);
}

void Arena::adopt(const std::string& name, const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  const at::Tensor& leaf = parameter(name);
  check_fits(name, leaf, tensor, tensor.scalar_type() == at::kFloat, "f32");
  const at::Tensor view = leaf.detach();
  view.copy_(tensor);
  const at::Tensor gradient = leaf.grad();
  // The handle shares its implementation with the module's, so that the module sees what changes here.
  tensor.set_data(view);
  tensor.requires_grad_(true);
  tensor.mutable_grad() = gradient;
  leaves_[name] = tensor;
}

void Arena::adopt_copy(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor& leaf = parameter(name);
  const bool is_narrower = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
  check_fits(name, leaf, tensor, is_narrower, "bf16 or f16");
  tensor.requires_grad_(true);
  torch::autograd::impl::set_post_acc_grad_hooks(tensor, std::make_unique<AddToParameter>(leaf));
  copies_[name] = tensor;
  const at::NoGradGuard no_grad;
  tensor.copy_(leaf);
}

void Arena::refresh_copies() {
  const at::NoGradGuard no_grad;
  for (const auto& [name, copy] : copies_) copy.copy_(parameter(name));
}

std::int64_t Arena::trainable_elements() const {
  std::int64_t count = 0;
  for (const ArenaEntry& entry : entries_) count += entry.elements;
  return count;
}

}  // namespace ldmtune::optim
