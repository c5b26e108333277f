#pragma once
// The modules of a hypernetwork's Sequential, as pure functions of its spec: what is at index N, and how it is named.

#include <cstdint>
#include <string>
#include <vector>

#include "adapt/hypernetwork.h"

namespace ldmtune::adapt {

enum class ModuleKind { linear, activation, layer_norm, dropout };

struct SequentialModule {
  ModuleKind kind = ModuleKind::linear;
  std::int64_t index = 0;        ///< N of "linear.N"
  std::int64_t in = 0, out = 0;  ///< features; equal but for a linear
  double dropout = 0.0;          ///< probability of a dropout module
  bool in_last_stage = false;    ///< belongs to the last linear's stage

  bool has_weights() const { return kind == ModuleKind::linear || kind == ModuleKind::layer_norm; }
  /// (out, in) of a linear, (out) of a layer norm.
  std::vector<std::int64_t> weight_shape() const;
};

/// The modules of one network of `width`, in order. The spec has passed check_spec.
std::vector<SequentialModule> sequential_modules(const HypernetworkSpec& spec, std::int64_t width);

/// "768.k.linear.0".
std::string module_name(std::int64_t width, const std::string& role, std::int64_t index);

/// The two networks of a width, in order.
inline constexpr const char* kRoles[] = {"k", "v"};

/// What every spec must hold wherever it comes from. Errors: InputError that begins with `prefix` ("hypernetwork." or
/// "x.pt: ") and the setting's name.
void check_spec(const HypernetworkSpec& spec, const std::string& prefix);

}  // namespace ldmtune::adapt
