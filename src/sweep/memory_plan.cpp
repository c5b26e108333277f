#include "sweep/memory_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "adapt/counted_hooks.h"
#include "model/base_outline.h"
#include "model/counted_networks.h"
#include "store/safetensors.h"
#include "sweep/plan.h"
#include "train/training_flops.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

constexpr double kF32 = 4;
constexpr double kProgram = 190e6;  ///< LibTorch, MPI and HDF5 themselves

double elements_of(const std::vector<std::int64_t>& shape) {
  double elements = 1;
  for (const std::int64_t extent : shape) elements *= static_cast<double>(extent);
  return elements;
}

/// Numbers in the weight files of one component's folder; 0 where there are none. Of variants one counts.
double numbers_in_folder(const fs::path& folder) {
  std::error_code error;
  std::map<std::string, double> by_stem;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".safetensors") continue;
    double numbers = 0;
    for (const store::TensorInfo& tensor : store::read_safetensors_header(entry.path()))
      numbers += elements_of(tensor.shape);
    const std::string name = entry.path().filename().string();
    by_stem[name.substr(0, name.find('.'))] = numbers;
  }
  double total = 0;
  for (const auto& [stem, numbers] : by_stem) total += numbers;
  return total;
}

/// Numbers of a component of a base, folder or single file.
double stored_numbers(const fs::path& base, const std::string& component) {
  if (!model::is_single_file(base)) return numbers_in_folder(base / component);
  const auto& networks = model::single_file_outline(base).networks;
  const auto network = networks.find(component);
  double numbers = 0;
  if (network == networks.end()) return numbers;
  for (const auto& [key, tensor] : network->second.tensors) numbers += static_cast<double>(tensor.numel());
  return numbers;
}

bool trains_text(const TrainConfig& config) {
  return config.method == "textual_inversion" ||
         (config.method == "dreambooth" && config.dreambooth.train_text_encoder) ||
         (config.method == "lora" && !config.lora.text_encoder_target_modules.empty());
}

/// Bytes of a number that UNet and text encoder compute with.
double compute_size(const TrainConfig& config) { return config.train.mixed_precision == "no" ? kF32 : kF32 / 2; }

std::unique_ptr<model::CountedHooks> hooks_of(const TrainConfig& config, const std::string& component) {
  if (config.method == "hypernetwork" && component == "unet") {
    return std::make_unique<adapt::CountedHypernetwork>(
        adapt::HypernetworkSpec::from_config(config.hypernetwork, base_context_widths(config.base)));
  }
  if (config.method == "lora") {
    return std::make_unique<adapt::CountedLora>(adapt::Lora::from_config(config.lora, adapt::lora_sites(config.base)),
                                                component);
  }
  if (config.method == "textual_inversion" && component != "unet") return std::make_unique<adapt::CountedEmbedding>();
  return nullptr;
}

/// Forward passes of one configuration on latents of one size.
class Passes {
 public:
  Passes(const TrainConfig& config, const DataSize& data)
      : config_(config), data_(data), shape_(train::read_base_shape(config.base)) {}

  struct Bytes {
    double peak = 0, kept = 0;
  };

  Bytes training_step(double rows) const {
    model::MemoryTape tape(/*records=*/true);
    Bytes bytes;
    const model::Counted prediction = unet(tape, rows, /*trains=*/true, text(tape, rows));
    bytes.kept = tape.kept_bytes();
    tape.backward(prediction);
    bytes.peak = tape.peak_bytes();
    return bytes;
  }

  double forward(double rows) const {
    model::MemoryTape tape(/*records=*/false);
    unet(tape, rows, false, text(tape, rows));
    return tape.peak_bytes();
  }

  double decode() const {
    const auto [config, source] = model::read_network_config(config_.base, "vae");
    if (config.is_null()) return 0;
    model::MemoryTape tape(/*records=*/false);
    const model::Pass pass;
    model::walk_decoder(tape, model::read_vae_config(config, source), pass, data_.latent_height, data_.latent_width);
    return tape.peak_bytes();
  }

  double context_bytes() const {
    return static_cast<double>(shape_.text_tokens(config_.caption) * shape_.unet.cross_attention_dim) * kF32;
  }

 private:
  model::Counted text(model::MemoryTape& tape, double rows) const {
    const auto tokens = static_cast<double>(shape_.text_tokens(config_.caption));
    const double size = compute_size(config_);
    const double elements = rows * tokens * static_cast<double>(shape_.unet.cross_attention_dim);
    if (!trains_text(config_)) return tape.tensor(elements, size);
    std::vector<model::Counted> states;
    for (std::size_t i = 0; i < shape_.text_encoders.size(); ++i) {
      const auto hooks = hooks_of(config_, i == 0 ? "text_encoder" : "text_encoder_2");
      model::Pass pass{.batch = rows * static_cast<double>(config_.caption.max_chunks), .element_size = size};
      pass.trains = config_.method == "dreambooth";
      pass.hooks = hooks.get();
      states.push_back(model::walk_text_encoder(tape, shape_.text_encoders[i], pass, shape_.text_length));
    }
    return states.size() == 1 ? states.front() : tape.concatenate(states);
  }

  model::Counted unet(model::MemoryTape& tape, double rows, bool trains, const model::Counted& text) const {
    hooks_ = hooks_of(config_, "unet");  // backward may walk blocks again
    model::Pass& pass = pass_;
    pass = {.batch = rows, .element_size = compute_size(config_)};
    pass.trains = trains && config_.method == "dreambooth" && config_.dreambooth.train_unet == "all";
    pass.trains_attention = trains && config_.method == "dreambooth" && config_.dreambooth.train_unet == "attention";
    pass.gradient_checkpointing = config_.train.gradient_checkpointing;
    pass.hooks = hooks_.get();
    return model::walk_unet(tape, shape_.unet, pass, data_.latent_height, data_.latent_width, text,
                            shape_.text_tokens(config_.caption));
  }

  const TrainConfig& config_;
  const DataSize& data_;
  train::BaseShape shape_;
  mutable std::unique_ptr<model::CountedHooks> hooks_;
  mutable model::Pass pass_;
};

/// Buffers of gradients that a rank holds at once: the canonical tree's partial sums of its leaves.
double gradient_buffers(const TrainConfig& config, int ranks) {
  std::int64_t leaves =
      config.train.global_batch_size / std::max<std::int64_t>(1, config.train.micro_batch_size) / ranks;
  if (config.method == "dreambooth" && config.dreambooth.with_prior_preservation) leaves *= 2;
  return static_cast<double>(std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(1, leaves))));
}

double optimizer_tensors(const std::string& optimizer) {
  return optimizer == "lion" ? 1 : optimizer == "prodigy" ? 4 : 2;
}

/// Numbers of the base that train themselves, by component.
std::map<std::string, double> trained_of_base(const TrainConfig& config,
                                              const std::vector<optim::ParameterSpec>& trained) {
  std::map<std::string, double> numbers;
  if (config.method != "dreambooth") return numbers;
  for (const optim::ParameterSpec& parameter : trained) numbers[parameter.group] += elements_of(parameter.shape);
  return numbers;
}

void add_base(MemoryPlan& plan, const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained) {
  const bool is_mixed = config.train.mixed_precision != "no";
  std::map<std::string, double> of_arena = trained_of_base(config, trained);
  double rounded = 0;
  for (const auto& [component, name] : {std::pair{"unet", "UNet, frozen"},
                                        {"text_encoder", "text encoder, frozen"},
                                        {"text_encoder_2", "second text encoder, frozen"}}) {
    const double frozen = stored_numbers(config.base, component) - of_arena[component];
    if (frozen > 0) plan.always.push_back({name, frozen * compute_size(config)});
    if (is_mixed) rounded += of_arena[component] * compute_size(config);
  }
  const double autoencoder =
      config.base_options.vae.empty() ? stored_numbers(config.base, "vae") : numbers_in_folder(config.base_options.vae);
  if (autoencoder > 0) plan.always.push_back({"VAE", autoencoder * kF32});
  if (rounded > 0) plan.always.push_back({"rounded copies of what trains", rounded});
}

/// `numbers` of all trials of a pack.
void add_trained(MemoryPlan& plan, const TrainConfig& config, double numbers, int ranks) {
  const double slice = numbers / ranks;
  const double buffers = gradient_buffers(config, ranks);
  plan.always.push_back({"weights that train", numbers * kF32});
  plan.always.push_back(
      {"gradients, " + std::to_string(std::lround(buffers)) + " buffer(s)", buffers * numbers * kF32});
  plan.always.push_back({"moments of " + config.optim.optimizer + (ranks > 1 ? ", this rank's slice" : ""),
                         optimizer_tensors(config.optim.optimizer) * slice * kF32});
  if (config.optim.use_ema) plan.always.push_back({"average of the weights", slice * kF32});
  if (ranks > 1) plan.always.push_back({"exchange between ranks", numbers / 2 * kF32});
}

}  // namespace

double MemoryPlan::largest_in_turn() const {
  double largest = 0;
  for (const MemoryItem& item : in_turn) largest = std::max(largest, item.bytes);
  return largest;
}

double MemoryPlan::total() const {
  double sum = largest_in_turn();
  for (const MemoryItem& item : always) sum += item.bytes;
  return sum;
}

MemoryPlan memory_plan(const TrainConfig& config, const std::vector<optim::ParameterSpec>& trained,
                       const DataSize& data, int ranks, const PackShape& pack) {
  double numbers = 0;
  for (const optim::ParameterSpec& parameter : trained) numbers += elements_of(parameter.shape);
  const Passes passes(config, data);
  MemoryPlan plan;
  plan.always.push_back({"program and libraries", kProgram});
  add_base(plan, config, trained);
  add_trained(plan, config, static_cast<double>(pack.trials) * numbers, ranks);
  if (!trains_text(config)) {
    double captions = static_cast<double>(data.heldout + data.test + data.adjacent);
    for (const std::int64_t images : data.training_of) captions += static_cast<double>(images);
    constexpr double kCacheBytes = 1 << 30;  // pipeline/text.cpp keeps no more
    plan.always.push_back({"contexts of captions", std::min(kCacheBytes, captions * passes.context_bytes())});
  }
  const double rows = static_cast<double>(pack.width) * static_cast<double>(config.train.micro_batch_size);
  const Passes::Bytes step = passes.training_step(rows);
  plan.kept_for_backward = step.kept;
  plan.in_turn.push_back({"training step", step.peak});
  const double average = config.optim.use_ema ? 2 * numbers * kF32 : 0;  // in the weights' place, beside them
  plan.in_turn.push_back({"validation", passes.forward(static_cast<double>(config.validation.batch_size)) + average});
  if (config.sample.steps > 0) {
    const double drawn = config.sample.guidance_scale > 1 ? 2 : 1;
    plan.in_turn.push_back({"preview", std::max(passes.forward(drawn), passes.decode()) + average});
  }
  return plan;
}

}  // namespace ldmtune::sweep
