#include "sweep/cost.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/dataset_mix.h"
#include "optim/schedule.h"
#include "store/files.h"
#include "store/safetensors.h"
#include "sweep/plan.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;
using model::UNetConfig;

/// Adds up layers; positions are those of one sample.
class Counter {
 public:
  Counter(const UNetConfig& config, std::int64_t text_tokens)
      : config_(config), text_tokens_(static_cast<double>(text_tokens)) {}

  void convolution(double positions, double in, double out, double kernel, double stride = 1) {
    const double area = kernel * kernel;
    cost_.parameters += in * out * area + out;
    cost_.flops += 2 * positions / (stride * stride) * in * out * area;
    cost_.saved_elements += positions * in;
  }
  void matrix(double tokens, double in, double out, bool bias = true) {
    cost_.parameters += in * out + (bias ? out : 0);
    cost_.flops += 2 * tokens * in * out;
  }
  void norm(double positions, double channels) {
    cost_.parameters += 2 * channels;
    cost_.saved_elements += positions * channels;
  }
  void resnet(double positions, double in, double out) {
    norm(positions, in);
    activation(positions, in);
    convolution(positions, in, out, 3);
    matrix(1, static_cast<double>(config_.time_embedding_dim), out);
    norm(positions, out);
    activation(positions, out);
    convolution(positions, out, out, 3);
    if (in != out) convolution(positions, in, out, 1);
  }
  void transformer(double positions, const UNetConfig::Level& level, bool only_cross) {
    const double channels = static_cast<double>(level.channels);
    const double width = static_cast<double>(level.channels / level.heads * level.heads);
    norm(positions, channels);
    matrix(positions, channels, width);
    for (std::int64_t i = 0; i < level.transformer_layers; ++i) block(positions, width, only_cross);
    matrix(positions, width, channels);
  }
  const UNetCost& cost() const { return cost_; }

 private:
  void activation(double positions, double channels) { cost_.saved_elements += positions * channels; }
  void attention(double queries, double keys, double width, double context) {
    double& read = cost_.read_tokens[static_cast<std::int64_t>(context)];
    // The text is the same for all layers, so what changes it runs once; a hidden state is another in each.
    read = context == static_cast<double>(config_.cross_attention_dim) ? text_tokens_ : read + keys;
    matrix(queries, width, width, false);
    matrix(keys, context, width, false);
    matrix(keys, context, width, false);
    cost_.flops += 4 * queries * keys * width;
    cost_.attention_flops += 4 * queries * keys * width;
    cost_.saved_elements += 2 * (queries + keys) * width;
    matrix(queries, width, width);
  }
  void block(double positions, double width, bool only_cross) {
    const double text_width = static_cast<double>(config_.cross_attention_dim);
    norm(positions, width);
    attention(positions, only_cross ? text_tokens_ : positions, width, only_cross ? text_width : width);
    norm(positions, width);
    attention(positions, text_tokens_, width, text_width);
    norm(positions, width);
    matrix(positions, width, 8 * width);
    cost_.saved_elements += 12 * positions * width;  // both halves of the gate, and the gate's activation
    matrix(positions, 4 * width, width);
  }

  const UNetConfig& config_;
  double text_tokens_;
  UNetCost cost_;
};

/// Positions of a level: each downsampler halves both sides, rounding up.
std::vector<double> level_positions(std::size_t levels, std::int64_t height, std::int64_t width) {
  std::vector<double> positions;
  for (std::size_t i = 0; i < levels; ++i) {
    positions.push_back(static_cast<double>(height * width));
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  return positions;
}

/// Down blocks; returns the channels of the skips, in the order they are left.
std::vector<double> count_down(Counter& counter, const UNetConfig& config, const std::vector<double>& positions) {
  double in = static_cast<double>(config.levels.front().channels);
  std::vector<double> skips{in};
  for (std::size_t i = 0; i < config.levels.size(); ++i) {
    const UNetConfig::Level& level = config.levels[i];
    const double out = static_cast<double>(level.channels);
    for (std::int64_t j = 0; j < level.layers; ++j) {
      counter.resnet(positions[i], in, out);
      if (level.down_attention) counter.transformer(positions[i], level, level.only_cross_attention);
      in = out;
      skips.push_back(out);
    }
    if (i + 1 < config.levels.size()) {
      counter.convolution(positions[i], out, out, 3, 2);
      skips.push_back(out);
    }
  }
  return skips;
}

void count_up(Counter& counter, const UNetConfig& config, const std::vector<double>& positions,
              std::vector<double> skips) {
  double in = static_cast<double>(config.levels.back().channels);
  for (std::size_t i = config.levels.size(); i-- > 0;) {
    const UNetConfig::Level& level = config.levels[i];
    const double out = static_cast<double>(level.channels);
    for (std::int64_t j = 0; j <= level.layers; ++j) {
      counter.resnet(positions[i], in + skips.back(), out);
      skips.pop_back();
      if (level.up_attention) counter.transformer(positions[i], level, level.only_cross_attention);
      in = out;
    }
    if (i > 0) counter.convolution(positions[i - 1], out, out, 3);
  }
}

/// Tokens of a padded prompt: each chunk has the text encoder's length without the two ends.
std::int64_t text_tokens_of(const TrainConfig& config) {
  const fs::path file = config.base / "text_encoder" / "config.json";
  std::int64_t length = 77;
  if (fs::exists(file)) {
    const nlohmann::json encoder = store::read_json(file);
    if (encoder.is_object()) length = encoder.value("max_position_embeddings", length);
  }
  return 2 + (length - 2) * config.caption.max_chunks;
}

/// Numbers stored in the weight files of one component; 0 where there are none.
double stored_numbers(const fs::path& folder) {
  double total = 0;
  std::error_code error;
  std::map<std::string, double> by_stem;  // one variant counts
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".safetensors") continue;
    double numbers = 0;
    for (const store::TensorInfo& tensor : store::read_safetensors_header(entry.path())) {
      double elements = 1;
      for (const std::int64_t extent : tensor.shape) elements *= static_cast<double>(extent);
      numbers += elements;
    }
    const std::string name = entry.path().filename().string();
    by_stem[name.substr(0, name.find('.'))] = numbers;
  }
  for (const auto& [stem, numbers] : by_stem) total += numbers;
  return total;
}

std::int64_t images_of(const data::LatentDataset& dataset, store::Split split) {
  std::int64_t count = 0;
  for (const auto& bucket : dataset.by_bucket(split)) {
    for (const std::size_t sample : bucket) count += dataset.record(sample).variant == 0;
  }
  return count;
}

std::int64_t images_of(const data::DatasetMix& mix, store::Split split) {
  std::int64_t count = 0;
  for (const auto& dataset : mix.datasets()) count += images_of(*dataset, split);
  return count;
}

/// Images that one pass takes; data.subset is spread over the datasets as their images are.
double images_per_pass(const DataConfig& options, const DataSize& data) {
  double weighted = 0, all = 0;
  for (std::size_t i = 0; i < data.training_of.size(); ++i) {
    const auto images = static_cast<double>(data.training_of[i]);
    weighted += images * (i < options.weights.size() ? options.weights[i] : 1);
    all += images;
  }
  if (options.subset == 0) return weighted;
  return static_cast<double>(options.subset) * (all > 0 ? weighted / all : 1);
}

double updates_of(const TrainConfig& config, const DataSize& data) {
  double updates = static_cast<double>(config.train.max_train_steps);
  if (config.train.num_train_epochs > 0) {
    const double images =
        static_cast<double>(config.train.num_train_epochs) * images_per_pass(config.data_options, data);
    updates = std::ceil(images / static_cast<double>(config.train.global_batch_size));
  }
  const auto last = optim::PiecewiseSchedule(config.optim.learning_rate, "optim.learning_rate").last_update();
  return last ? std::min(updates, static_cast<double>(*last)) : updates;
}

/// Forwards of all validations: held-out, training and adjacent images every time, test images at both ends,
/// those that stop.rule watches.
double validation_forwards(const TrainConfig& config, const DataSize& data, double updates) {
  const auto limited = [&](std::int64_t images) {
    const std::int64_t limit = config.validation.max_images;
    return static_cast<double>(limit > 0 ? std::min(limit, images) : images);
  };
  const double every = static_cast<double>(config.validation.steps);
  const double times = 1 + (every > 0 ? std::ceil(updates / every) : 1);
  const double images = 2 * limited(data.heldout) + limited(data.adjacent);
  const StopConfig& stop = config.stop;
  const double watched = stop.rule == "none" ? 0
                                             : (1 + std::floor(updates / static_cast<double>(stop.every))) *
                                                   static_cast<double>(stop.images);
  return (images * times + 2 * limited(data.test) + watched) * static_cast<double>(config.validation.timesteps);
}

/// Operations of one forward of what trains: each weight meets every token that its network reads.
double adapter_flops(const TrainConfig& config, double parameters, const UNetCost& unet) {
  double flops = 0;
  if (config.method == "hypernetwork") {
    for (const auto& [width, numbers] : parameters_by_width(config)) {
      const auto tokens = unet.read_tokens.find(width);
      if (tokens != unet.read_tokens.end()) flops += 2 * numbers * tokens->second;
    }
    return flops;
  }
  if (config.method == "dreambooth") return 0;  // the weights that train are the UNet's own
  double tokens = 0;                            // of other methods: as many as an attention layer reads on average
  for (const auto& [width, read] : unet.read_tokens) tokens += read / static_cast<double>(unet.read_tokens.size());
  return 2 * parameters * tokens;
}

/// Speed that finished trials reached, all operations over all seconds and ranks; 0 where none is done.
double reached_speed(const Grid& grid) {
  double flops = 0, seconds = 0;
  for (const Trial& trial : grid.trials) {
    const TrialState state = read_state(grid.sweep.output, trial);
    if (state.status != TrialStatus::done) continue;
    const auto time = state.result.find("seconds"), ranks = state.result.find("ranks");
    if (time == state.result.end() || !time->is_number() || ranks == state.result.end() || !ranks->is_number())
      continue;
    const UNetConfig unet = base_unet_config(trial.config.base);
    flops += 1e12 *
             trial_cost(trial.config, trainable_parameters(trial.config), data_size(trial.config, unet), unet).tflops();
    seconds += time->get<double>() * ranks->get<double>();
  }
  return seconds > 0 ? flops / seconds : 0;
}

/// A convolution and a matrix product of the size that fine-tuning has: the fastest of many rounds, since others may be
/// using the machine now. Training reaches about this share of it.
double measured_speed() {
  constexpr double kShareReached = 0.8;
  constexpr double kSeconds = 0.2;
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = at::ones({512, 512}), image = at::ones({4, 64, 32, 32}), kernel = at::ones({64, 64, 3, 3});
  const double flops = 2.0 * 512 * 512 * 512 + 2.0 * 4 * 1024 * 64 * 64 * 9;
  using Clock = std::chrono::steady_clock;
  double fastest = std::numeric_limits<double>::infinity();
  for (const Clock::time_point start = Clock::now();
       std::chrono::duration<double>(Clock::now() - start).count() < kSeconds;) {
    const Clock::time_point before = Clock::now();
    at::mm(matrix, matrix);
    at::conv2d(image, kernel, {}, {1, 1}, {1, 1});
    fastest = std::min(fastest, std::chrono::duration<double>(Clock::now() - before).count());
  }
  return kShareReached * flops / fastest;
}

}  // namespace

UNetCost unet_cost(const UNetConfig& config, std::int64_t height, std::int64_t width, std::int64_t text_tokens) {
  Counter counter(config, text_tokens);
  const std::vector<double> positions = level_positions(config.levels.size(), height, width);
  const double first = static_cast<double>(config.levels.front().channels);
  const double last = static_cast<double>(config.levels.back().channels);
  const double time = static_cast<double>(config.time_embedding_dim);
  counter.matrix(1, first, time);
  counter.matrix(1, time, time);
  counter.convolution(positions[0], static_cast<double>(config.in_channels), first,
                      static_cast<double>(config.conv_in_kernel));
  const std::vector<double> skips = count_down(counter, config, positions);
  counter.resnet(positions.back(), last, last);
  counter.transformer(positions.back(), config.levels.back(), false);
  counter.resnet(positions.back(), last, last);
  count_up(counter, config, positions, skips);
  counter.norm(positions[0], first);
  counter.convolution(positions[0], first, static_cast<double>(config.out_channels),
                      static_cast<double>(config.conv_out_kernel));
  return counter.cost();
}

UNetConfig base_unet_config(const fs::path& base) {
  const fs::path file = base / "unet" / "config.json";
  return model::read_unet_config(store::read_json(file), file.string());
}

DataSize data_size(const TrainConfig& config, const UNetConfig& unet) {
  DataSize size;
  size.latent_height = size.latent_width = unet.sample_size;
  try {
    const data::DatasetMix dataset(config.data, /*verify_below=*/0);
    const store::BucketSize* largest = nullptr;
    for (const store::BucketSize& bucket : dataset.buckets()) {
      if (largest == nullptr || bucket.width * bucket.height > largest->width * largest->height) largest = &bucket;
    }
    if (largest != nullptr && dataset.size() > 0) {
      const at::Tensor mean = dataset.latent(0).mean;  // the VAE's factor is what the files show
      const double factor = static_cast<double>(dataset.bucket(0).height) / static_cast<double>(mean.size(1));
      size.latent_height = static_cast<std::int64_t>(static_cast<double>(largest->height) / factor);
      size.latent_width = static_cast<std::int64_t>(static_cast<double>(largest->width) / factor);
    }
    for (const auto& each : dataset.datasets()) size.training_of.push_back(images_of(*each, store::Split::train));
    size.heldout = images_of(dataset, store::Split::validation);
    size.test = images_of(dataset, store::Split::test);
    if (!config.validation.adjacent.empty()) {
      size.adjacent = images_of(data::LatentDataset(config.validation.adjacent, 0), store::Split::validation);
    }
  } catch (const InputError&) {
    // A plan may be made where the data is not; check_trials refuses before anything runs.
  }
  return size;
}

TrialCost trial_cost(const TrainConfig& config, std::int64_t trained, const DataSize& data, const UNetConfig& unet) {
  const UNetCost forward = unet_cost(unet, data.latent_height, data.latent_width, text_tokens_of(config));
  const double parameters = static_cast<double>(trained);
  TrialCost cost;
  const double updates = updates_of(config, data);
  cost.updates = static_cast<std::int64_t>(updates);
  // Frozen weights need the gradient of their input alone: as much again as the forward, and attention once more.
  const double adapter = adapter_flops(config, parameters, forward);
  const bool trains_base = config.method == "dreambooth";  // whose weights need a gradient too
  const double samples = trains_base && config.dreambooth.with_prior_preservation ? 2 : 1;
  const double sample = samples * ((trains_base ? 3 : 2) * forward.flops + forward.attention_flops + 3 * adapter);
  cost.training_flops = updates * static_cast<double>(config.train.global_batch_size) * sample;
  cost.validation_flops = validation_forwards(config, data, updates) * (forward.flops + adapter);
  const double leaves =
      static_cast<double>(config.train.global_batch_size / std::max<std::int64_t>(1, config.train.micro_batch_size));
  const double arenas = 1 + (1 + std::log2(std::max(1.0, leaves))) + 2;  // parameters, gradients of the tree, moments
  const double number = config.train.mixed_precision == "bf16" ? 2 : 4;
  const double frozen = (forward.parameters + stored_numbers(config.base / "text_encoder")) * number +
                        stored_numbers(config.base / "vae") * 4;
  const double kept = forward.saved_elements * static_cast<double>(config.train.micro_batch_size) * number;
  constexpr double kProgram = 190e6;  // LibTorch and MPI themselves
  cost.bytes = kProgram + frozen - (trains_base ? parameters * number : 0) + arenas * parameters * 4 + kept;
  return cost;
}

Speed estimate_speed(const Grid& grid) {
  if (grid.sweep.tflops_per_s > 0) return {grid.sweep.tflops_per_s * 1e12, "sweep.tflops_per_s"};
  const double reached = reached_speed(grid);
  if (reached > 0) return {reached, "what finished trials of this sweep reached"};
  return {measured_speed(), "measured on this machine now"};
}

}  // namespace ldmtune::sweep
