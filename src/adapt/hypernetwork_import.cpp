// Reads A1111's hypernetwork .pt of any age.

#include <ATen/core/grad_mode.h>

#include <map>

#include "adapt/hypernetwork_layout.h"
#include "adapt/hypernetwork_safetensors.h"
#include "core/error.h"
#include "store/torch_file.h"

namespace ldmtune::adapt {

namespace {

using store::PyDict;
using store::PyList;
using store::PyTuple;
using store::PyValue;

/// Tied weights are stored once and read twice; tensors that need more memory than this many times the file are an
/// attack.
constexpr std::uint64_t kMaxSharing = 8;

/// A metadata entry; null if missing or None.
const PyValue* setting(const PyDict& file, const std::string& key) {
  const PyValue* value = file.find(key);
  return value == nullptr || value->is_none() ? nullptr : value;
}

class Reader {
 public:
  Reader(const std::filesystem::path& file, const PyDict& dict) : file_(file), dict_(dict) {}

  HypernetworkSpec spec() const;
  /// Weights by parameter name, each of the shape that `spec` asks for.
  std::map<std::string, at::Tensor> weights(const HypernetworkSpec& spec) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::int64_t step() const;

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail_input(file_.string(), ": ", parts...);
  }
  bool flag(const std::string& key, bool fallback) const;
  std::vector<double> numbers(const std::string& key) const;
  std::vector<double> dropout_structure(std::size_t entries) const;
  std::set<std::int64_t> widths() const;
  std::map<std::string, at::Tensor> state_dict(std::int64_t width, std::size_t role) const;
  at::Tensor checked(const at::Tensor& tensor, const std::string& name, const std::vector<std::int64_t>& shape) const;

  const std::filesystem::path& file_;
  const PyDict& dict_;
};

std::string Reader::text(const std::string& key, const std::string& fallback) const {
  const PyValue* value = setting(dict_, key);
  if (value == nullptr) return fallback;
  const auto* string = value->get_if<std::string>();
  if (string == nullptr) refuse(key, ": expected a string");
  return *string;
}

bool Reader::flag(const std::string& key, bool fallback) const {
  const PyValue* value = setting(dict_, key);
  if (value == nullptr) return fallback;
  if (const auto* boolean = value->get_if<bool>()) return *boolean;
  if (const auto* number = value->get_if<std::int64_t>()) return *number != 0;
  refuse(key, ": expected True or False");
}

std::int64_t Reader::step() const {
  const PyValue* value = setting(dict_, "step");
  if (value == nullptr) return 0;
  const auto* number = value->get_if<std::int64_t>();
  if (number == nullptr || *number < 0) refuse("step: expected a whole number from 0");
  return *number;
}

std::vector<double> Reader::numbers(const std::string& key) const {
  const PyValue* value = setting(dict_, key);
  if (value == nullptr) return {};
  const auto* list = value->get_if<PyList>();
  const auto* tuple = value->get_if<PyTuple>();
  if (list == nullptr && tuple == nullptr) refuse(key, ": expected a list of numbers");
  std::vector<double> result;
  for (const PyValue& item : list != nullptr ? list->items : tuple->items) {
    if (const auto* real = item.get_if<double>()) {
      result.push_back(*real);
    } else if (const auto* whole = item.get_if<std::int64_t>()) {
      result.push_back(static_cast<double>(*whole));
    } else {
      refuse(key, ": expected a list of numbers");
    }
  }
  return result;
}

/// Files older than dropout_structure say only whether there is dropout, of 0.3, and whether the stage before the last
/// has it too.
std::vector<double> Reader::dropout_structure(std::size_t entries) const {
  if (setting(dict_, "dropout_structure") != nullptr) return numbers("dropout_structure");
  if (!flag("use_dropout", false)) return {};
  std::vector<double> probabilities(entries, 0.3);
  probabilities.front() = probabilities.back() = 0.0;
  if (!flag("last_layer_dropout", false)) probabilities[entries - 2] = 0.0;
  return probabilities;
}

std::set<std::int64_t> Reader::widths() const {
  std::set<std::int64_t> found;
  for (const auto& [key, value] : dict_.items)
    if (const auto* width = key.get_if<std::int64_t>(); width != nullptr && !found.insert(*width).second)
      refuse("two entries for context width ", *width);
  if (!found.empty()) return found;
  const bool embedding = dict_.find("string_to_param") != nullptr;
  refuse("no hypernetwork: expected entries with a context width (768, 320 ...) as key",
         embedding ? "; this is a textual inversion embedding" : "", ", found none");
}

HypernetworkSpec Reader::spec() const {
  HypernetworkSpec spec;
  if (flag("skip_connection", false) || flag("upsample_linear", false))
    refuse(
        "made with MonkeyPatch's skip_connection or upsample_linear, which change the network; ldmtune reads A1111's "
        "own only");
  spec.widths = widths();
  if (setting(dict_, "layer_structure") != nullptr) spec.layer_structure = numbers("layer_structure");
  spec.activation = text("activation_func", "linear");
  spec.weight_init = text("weight_initialization", "Normal");
  spec.layer_norm = flag("is_layer_norm", false);
  spec.layer_norm_init = text("layer_norm_init", "a1111");
  spec.activate_output = flag("activate_output", true);
  if (spec.layer_structure.size() >= 2) spec.dropout_structure = dropout_structure(spec.layer_structure.size());
  check_spec(spec, file_.string() + ": ");
  return spec;
}

std::map<std::string, at::Tensor> Reader::state_dict(std::int64_t width, std::size_t role) const {
  static const std::map<std::string, std::string> renamed{{"linear1.weight", "linear.0.weight"},
                                                          {"linear1.bias", "linear.0.bias"},
                                                          {"linear2.weight", "linear.1.weight"},
                                                          {"linear2.bias", "linear.1.bias"}};
  const PyValue* value = dict_.find(width);
  const auto* tuple = value->get_if<PyTuple>();
  const auto* list = value->get_if<PyList>();
  const std::vector<PyValue>* pair = tuple != nullptr ? &tuple->items : list != nullptr ? &list->items : nullptr;
  const PyDict* dict = pair != nullptr && pair->size() == 2 ? (*pair)[role].get_if<PyDict>() : nullptr;
  if (dict == nullptr) refuse(width, ": expected a pair of state dicts (k, v)");
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [key, item] : dict->items) {
    const auto* name = key.get_if<std::string>();
    const auto* tensor = item.get_if<at::Tensor>();
    if (name == nullptr || tensor == nullptr)
      refuse(width, ": expected a pair of state dicts (k, v) that hold tensors by name");
    const auto other = renamed.find(*name);
    const std::string present = other != renamed.end() ? other->second : *name;
    if (!tensors.emplace(present, *tensor).second) refuse(width, ".", kRoles[role], ".", present, ": there twice");
  }
  return tensors;
}

at::Tensor Reader::checked(const at::Tensor& tensor, const std::string& name,
                           const std::vector<std::int64_t>& shape) const {
  if (!tensor.is_floating_point()) refuse(name, ": expected floating-point numbers, found ", tensor.scalar_type());
  if (tensor.sizes() != at::IntArrayRef(shape))
    refuse(name, ": layer_structure asks for shape ", at::IntArrayRef(shape), ", found ", tensor.sizes());
  return tensor;
}

std::map<std::string, at::Tensor> Reader::weights(const HypernetworkSpec& spec) const {
  std::map<std::string, at::Tensor> result;
  std::uint64_t bytes = 0;
  const std::uint64_t file_bytes = std::filesystem::file_size(file_);
  for (std::int64_t width : spec.widths)
    for (std::size_t role = 0; role < 2; ++role) {
      auto tensors = state_dict(width, role);
      const auto take = [&](std::int64_t index, const std::string& kind, const std::vector<std::int64_t>& shape) {
        const std::string name = module_name(width, kRoles[role], index) + "." + kind;
        const auto found = tensors.extract("linear." + std::to_string(index) + "." + kind);
        if (found.empty()) refuse(name, ": missing, though layer_structure and the other settings ask for it");
        result[name] = checked(found.mapped(), name, shape);
        bytes += result[name].nbytes();
      };
      for (const SequentialModule& module : sequential_modules(spec, width)) {
        if (!module.has_weights()) continue;
        take(module.index, "weight", module.weight_shape());
        take(module.index, "bias", {module.out});
      }
      if (!tensors.empty())
        refuse(width, ".", kRoles[role], ".", tensors.begin()->first,
               ": not expected by layer_structure and the other settings");
      if (bytes / kMaxSharing > file_bytes)
        refuse("its tensors share storage so often that they would need ", bytes, " bytes, from a file of ",
               file_bytes);
    }
  return result;
}

void copy_into(const optim::Arena& arena, const std::map<std::string, at::Tensor>& weights,
               const std::filesystem::path& file) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : weights) {
    if (!at::isfinite(tensor).all().item<bool>())
      fail_input(file.string(), ": ", name, " holds NaN or infinite weights; the training that made it diverged");
    arena.parameter(name).detach().copy_(tensor);
  }
}

}  // namespace

HypernetworkFile read_hypernetwork(const std::filesystem::path& file, at::Device device) {
  const bool is_safetensors = file.extension() == ".safetensors";
  const PyValue value = is_safetensors ? PyValue(read_hypernetwork_safetensors(file)) : store::read_torch_file(file);
  const auto* dict = value.get_if<PyDict>();
  if (dict == nullptr) fail_input(file.string(), ": no hypernetwork: expected a dictionary");
  const Reader reader(file, *dict);
  HypernetworkSpec spec = reader.spec();
  const auto weights = reader.weights(spec);

  HypernetworkFile result;
  result.network = std::make_unique<Hypernetwork>(std::move(spec));
  result.arena = std::make_unique<optim::Arena>(result.network->parameters(), device);
  copy_into(*result.arena, weights, file);
  result.name = reader.text("name", file.stem().string());
  result.base_sha256 = reader.text("sd_checkpoint", "");
  result.base_name = reader.text("sd_checkpoint_name", "");
  result.step = reader.step();
  return result;
}

}  // namespace ldmtune::adapt
