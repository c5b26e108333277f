#pragma once
// Hypernetworks with AUTOMATIC1111's semantics: per context width a (k, v) pair of fully connected networks,
// forward x + linear(x) * multiplier, shared by every attention layer of that width.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapt/adapter.h"
#include "core/config.h"

namespace ldmtune::adapt {

/// What defines the networks; HypernetworkConfig checked and completed.
struct HypernetworkSpec {
  std::vector<double> layer_structure{1, 2, 1};
  std::string activation = "linear";
  std::string weight_init = "Normal";   ///< Normal | XavierUniform | XavierNormal | KaimingUniform | KaimingNormal
  bool layer_norm = false;
  std::string layer_norm_init = "a1111"; ///< a1111 (weight drawn like the others, bias 0) | ones | zero_last
  bool activate_output = false;
  std::vector<double> dropout_structure; ///< one per entry of layer_structure; empty: none
  std::set<std::int64_t> widths;         ///< context widths that get networks

  /// Errors: InputError naming the option (structure not starting or ending with 1, fewer than two entries, not positive, unknown activation
  /// or initialisation with the list, dropout outside [0, 1) or of another length, a width the base has not).
  static HypernetworkSpec from_config(const HypernetworkConfig& config, const std::set<std::int64_t>& base_widths);
};

class Hypernetwork final : public Adapter {
 public:
  explicit Hypernetwork(HypernetworkSpec spec);

  const HypernetworkSpec& spec() const { return spec_; }
  std::vector<optim::ParameterSpec> parameters() const override;
  void initialize(const optim::Arena& arena, std::uint64_t seed) const override;
  std::unique_ptr<model::ModelHooks> hooks(const optim::Arena& arena, ForwardContext context) const override;
  void export_file(const optim::Arena& arena, const std::filesystem::path& file, const ExportInfo& info) const override;
  std::string file_extension() const override { return ".pt"; }

  /// The network of one width and role ("k" or "v") on x (B, T, width): x + linear(x) * strength.
  at::Tensor apply(const optim::Arena& arena, std::int64_t width, const std::string& role, const at::Tensor& x,
                   const ForwardContext& context, std::uint32_t attention_layer_index) const;

 private:
  HypernetworkSpec spec_;
};

/// A hypernetwork read from an A1111 .pt (missing keys as A1111 treats them, old names linear1/linear2 too).
struct HypernetworkFile {
  std::unique_ptr<Hypernetwork> network;
  std::unique_ptr<optim::Arena> arena;
  std::string name, base_sha256, base_name;
  std::int64_t step = 0;
};
/// Errors: InputError naming the file and what is wrong with it.
HypernetworkFile read_hypernetwork(const std::filesystem::path& file, at::Device device = at::kCPU);

}  // namespace ldmtune::adapt
