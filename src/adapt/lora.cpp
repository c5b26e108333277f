#include "adapt/lora.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <unordered_map>
#include <utility>

#include "adapt/lora_file.h"
#include "core/error.h"
#include "core/random.h"

namespace ldmtune::adapt {

namespace {

/// Adds each layer's low-rank part to its output.
class LoraHooks final : public model::ModelHooks {
 public:
  LoraHooks(const std::vector<LoraModule>& modules, const optim::Arena& arena, double strength) {
    if (strength == 0) return;
    for (const LoraModule& module : modules) {
      if (!module.site.has_hook()) fail(module.site.full_name(), ": the model calls no hook after this layer");
      // The text encoders' layers have the same names.
      auto& factors = factors_[module.site.component == "text_encoder_2" ? 1 : 0];
      factors.emplace(module.site.name,
                      Factors{arena.parameter(module.down_name()).flatten(1),
                              arena.parameter(module.up_name()).flatten(1).t(), module.scale() * strength});
    }
  }

  void begin_forward() override { current_ = 0; }
  void begin_text_encoder(std::int64_t index) override { current_ = static_cast<std::size_t>(index); }

  at::Tensor linear(const at::Tensor& input, const at::Tensor& output, const std::string& name) override {
    const auto found = factors_.at(current_).find(name);
    if (found == factors_.at(current_).end()) return output;
    const auto& [down, up, scale] = found->second;
    const at::Tensor narrow = at::linear(input.to(at::kFloat), down);  // (..., rank)
    const at::Tensor sum = at::addmm(output.to(at::kFloat).flatten(0, -2), narrow.flatten(0, -2), up, 1, scale);
    return sum.view(output.sizes());
  }

 private:
  struct Factors {
    at::Tensor down;  ///< (rank, in)
    at::Tensor up;    ///< (rank, out)
    double scale;
  };
  std::array<std::unordered_map<std::string, Factors>, 2> factors_;
  std::size_t current_ = 0;
};

at::Tensor initial_down(const std::vector<std::int64_t>& shape, std::uint64_t seed, const std::string& name) {
  at::Tensor values = at::empty(shape, at::kFloat);
  const std::span<float> elements(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel()));
  RandomStream{derive_seed(seed, name), Purpose::weight_init, 0, 0}.fill_uniform(elements);
  const auto fan_in = static_cast<double>(values.numel() / shape.front());
  return values.mul_(2.0f).sub_(1.0f).mul_(static_cast<float>(1.0 / std::sqrt(fan_in)));
}

}  // namespace

std::vector<std::int64_t> LoraModule::down_shape() const {
  std::vector<std::int64_t> shape = site.weight_shape;
  shape[0] = rank;
  return shape;
}

std::vector<std::int64_t> LoraModule::up_shape() const {
  std::vector<std::int64_t> shape(site.weight_shape.size(), 1);
  shape[0] = site.weight_shape[0];
  shape[1] = rank;
  return shape;
}

std::vector<optim::ParameterSpec> Lora::parameters() const {
  std::vector<optim::ParameterSpec> specs;
  for (const LoraModule& module : modules_) {
    specs.push_back({module.down_name(), module.down_shape(), module.site.component});
    specs.push_back({module.up_name(), module.up_shape(), module.site.component});
  }
  return specs;
}

void Lora::initialize(const optim::Arena& arena, std::uint64_t seed) const {
  const at::NoGradGuard no_grad;
  for (const LoraModule& module : modules_) {
    const std::string name = module.down_name();
    arena.parameter(name).detach().copy_(initial_down(module.down_shape(), seed, name));
    arena.parameter(module.up_name()).detach().zero_();
  }
}

std::unique_ptr<model::ModelHooks> Lora::hooks(const optim::Arena& arena, ForwardContext context) const {
  return std::make_unique<LoraHooks>(modules_, arena, context.strength);
}

bool Lora::trains_text_encoder() const {
  return std::any_of(modules_.begin(), modules_.end(),
                     [](const LoraModule& module) { return module.site.component != "unet"; });
}

void Lora::export_file(const optim::Arena& arena, const std::filesystem::path& file, const ExportInfo& info) const {
  write_lora(*this, arena, file, LoraLayout::diffusers, info);
}

}  // namespace ldmtune::adapt
