#pragma once
// Hypernetworks with AUTOMATIC1111's semantics (modules/hypernetworks/hypernetwork.py): per context width a (k, v) pair
// of fully connected networks, forward x + linear(x) * multiplier, shared by every attention layer of that width. The
// text context's k and v are computed once per width and forward. Everything is computed in fp32, whatever the base
// runs in.
//
// Parameters are named "<width>.<k|v>.linear.<N>.<weight|bias>", N counting every module of the Sequential (linear,
// activation, layer norm, dropout), in the order: width ascending, k before v, N, weight before bias; all in the group
// "hypernetwork".
//
// Initial weights are keyed by name: elements come from RandomStream{derive_seed(seed, name), weight_init, 0, 0}. With
// z = fill_normal and u = fill_uniform of that stream:
//   Normal 0.01 z; XavierNormal sqrt(2 / (in + out)) z; XavierUniform sqrt(6 / (in + out)) (2u - 1); KaimingNormal
//   sqrt(2 / in) z; KaimingUniform sqrt(6 / in) (2u - 1). torch's gains of relu and of leaky_relu at its default slope
//   argument 0 are both sqrt(2), so activations do not differ. Biases are 0. Layer norm: a1111 draws the weight as 0.01
//   z under every initialisation, as A1111 does, and zeroes the bias; ones is torch's own start (1, 0); zero_last is
//   ones but for (0, 0) at the last, so that training starts at the base itself.
//
// Dropout (inverted) keeps element i of a row's T * features where uniform(i) >= p and scales it by 1 / (1 - p), with
// uniform from RandomStream{derive_seed(seed, "<width>.<k|v>.linear.<N>", layer), dropout, dataset, draw}: N is the
// dropout module's own index, layer the AttentionSite's layer_index + 1, or 0 for the text context. A row's mask does not
// depend on the rows beside it.

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
  std::string weight_init = "Normal";  ///< Normal | XavierUniform | XavierNormal | KaimingUniform | KaimingNormal
  bool layer_norm = false;
  std::string layer_norm_init = "a1111";  ///< a1111 (weight drawn like the others, bias 0) | ones | zero_last
  bool activate_output = false;
  std::vector<double> dropout_structure;  ///< one per entry of layer_structure (the first is unused); empty: none
  std::set<std::int64_t> widths;          ///< context widths that get networks

  /// Errors: InputError naming the option (structure not starting or ending with 1, fewer than two entries, not
  /// positive, unknown activation or initialisation with the list, dropout outside [0, 1) or of another length, a width
  /// the base has not).
  static HypernetworkSpec from_config(const HypernetworkConfig& config, const std::set<std::int64_t>& base_widths);
};

/// The initialisations and the layer norm starts by name.
const std::vector<std::string>& weight_init_names();
const std::vector<std::string>& layer_norm_init_names();

class Hypernetwork final : public Adapter {
 public:
  /// Errors: InputError for a structure or activation that from_config would refuse.
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

/// export_file writes A1111's .pt, or where the file's name ends so .safetensors (adapt/hypernetwork_safetensors.h); with
/// inference_only, without dropout (ComfyUI leaves dropout active while sampling).

/// A hypernetwork read from an A1111 .pt or a .safetensors (missing keys as A1111 treats them, old names linear1/linear2 too).
struct HypernetworkFile {
  std::unique_ptr<Hypernetwork> network;
  std::unique_ptr<optim::Arena> arena;
  std::string name, base_sha256, base_name;
  std::int64_t step = 0;
};
/// Errors: InputError naming the file and what is wrong with it: no hypernetwork, a structure or activation that A1111
/// cannot have written, a weight that is missing, unexpected, of another shape or not finite, MonkeyPatch's
/// skip_connection.
HypernetworkFile read_hypernetwork(const std::filesystem::path& file, at::Device device = at::kCPU);

}  // namespace ldmtune::adapt
