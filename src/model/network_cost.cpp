#include "model/network_cost.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "core/error.h"

namespace ldmtune::model {
namespace {

/// Adds up layers; positions are those of one sample.
class Counter {
 public:
  Counter(const UNetConfig& config, std::int64_t text_tokens)
      : config_(config), text_tokens_(static_cast<double>(text_tokens)) {}

  void convolution(double positions, double in, double out, double kernel, double stride = 1) {
    const double area = kernel * kernel;
    cost_.parameters += in * out * area + out;
    add(2 * positions / (stride * stride) * in * out * area, !attention_came_);
    cost_.saved_elements += positions * in;
  }
  /// A matrix over the hidden state.
  void matrix(double tokens, double in, double out, bool bias = true) {
    cost_.parameters += in * out + (bias ? out : 0);
    add(2 * tokens * in * out, !attention_came_);
  }
  /// A matrix that reads the time embedding alone.
  void time_matrix(double in, double out) {
    cost_.parameters += in * out + out;
    add(2 * in * out, true);
  }
  void norm(double positions, double channels) {
    cost_.parameters += 2 * channels;
    cost_.saved_elements += positions * channels;
  }
  void resnet(double positions, double in, double out) {
    norm(positions, in);
    activation(positions, in);
    convolution(positions, in, out, 3);
    time_matrix(static_cast<double>(config_.time_embedding_dim), out);
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
  void add(double flops, bool before_attention) {
    cost_.flops += flops;
    if (before_attention) cost_.flops_before_attention += flops;
  }
  void activation(double positions, double channels) { cost_.saved_elements += positions * channels; }
  void attention(double queries, double keys, double width, double context, bool reads_text) {
    double& read = cost_.read_tokens[static_cast<std::int64_t>(context)];
    // The text is the same for all layers, so what changes it runs once; a hidden state is another in each.
    read = context == static_cast<double>(config_.cross_attention_dim) ? text_tokens_ : read + keys;
    attention_came_ = true;
    cost_.attention_matrix_flops += 4 * queries * width * width + 4 * keys * context * width;
    if (reads_text) cost_.text_matrix_flops += 4 * keys * context * width;
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
    attention(positions, only_cross ? text_tokens_ : positions, width, only_cross ? text_width : width, only_cross);
    norm(positions, width);
    attention(positions, text_tokens_, width, text_width, true);
    norm(positions, width);
    matrix(positions, width, 8 * width);
    cost_.saved_elements += 12 * positions * width;  // both halves of the gate, and the gate's activation
    matrix(positions, 4 * width, width);
  }

  const UNetConfig& config_;
  double text_tokens_;
  bool attention_came_ = false;
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

/// Level of "down_blocks.1....", "mid_block...." or "up_blocks.0....".
std::size_t level_of(const std::string& layer, std::size_t levels) {
  const std::size_t dot = layer.find('.');
  const auto number = [&] { return static_cast<std::size_t>(std::atoi(layer.c_str() + dot + 1)); };
  if (layer.rfind("down_blocks.", 0) == 0) return std::min(number(), levels - 1);
  if (layer.rfind("up_blocks.", 0) == 0) return levels - 1 - std::min(number(), levels - 1);
  if (layer.rfind("mid_block.", 0) == 0) return levels - 1;
  fail(layer, ": expected a layer of the UNet's down, mid or up blocks");
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

UNetCost unet_cost(const UNetConfig& config, std::int64_t height, std::int64_t width, std::int64_t text_tokens) {
  Counter counter(config, text_tokens);
  const std::vector<double> positions = level_positions(config.levels.size(), height, width);
  const double first = static_cast<double>(config.levels.front().channels);
  const double last = static_cast<double>(config.levels.back().channels);
  const double time = static_cast<double>(config.time_embedding_dim);
  counter.time_matrix(first, time);
  counter.time_matrix(time, time);
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

double tokens_read_by(const std::string& layer, const UNetConfig& config, std::int64_t height, std::int64_t width,
                      std::int64_t text_tokens) {
  const std::size_t level = level_of(layer, config.levels.size());
  const bool reads_keys = ends_with(layer, ".to_k") || ends_with(layer, ".to_v");
  const bool only_cross = config.levels[level].only_cross_attention && layer.rfind("mid_block.", 0) != 0;
  const bool is_cross = layer.find(".attn2.") != std::string::npos || only_cross;
  if (reads_keys && is_cross) return static_cast<double>(text_tokens);
  return level_positions(config.levels.size(), height, width)[level];
}

TextEncoderCost text_encoder_cost(const TextEncoderShape& shape, std::int64_t length, std::int64_t chunks) {
  const auto layers = static_cast<double>(shape.layers), width = static_cast<double>(shape.width);
  const double tokens = static_cast<double>(length * chunks);
  TextEncoderCost cost;
  cost.attention_flops = layers * 4 * tokens * static_cast<double>(length) * width;
  cost.flops = layers * 2 * tokens * (4 * width * width + 2 * width * static_cast<double>(shape.intermediate)) +
               cost.attention_flops;
  return cost;
}

}  // namespace ldmtune::model
