#include "model/counted_networks.h"

#include <memory>
#include <vector>

namespace ldmtune::model {
namespace {

double number(std::int64_t value) { return static_cast<double>(value); }

/// Height and width of a level.
struct Plane {
  std::int64_t height = 0, width = 0;
  double positions() const { return number(height * width); }
  Plane half() const { return {(height + 1) / 2, (width + 1) / 2}; }
  Plane twice() const { return {2 * height, 2 * width}; }
};

/// Layers that UNet and VAE share.
class Layers {
 public:
  Layers(MemoryTape& tape, const Pass& pass) : tape_(tape), pass_(pass) {}

  double tokens(const Plane& plane) const { return pass_.batch * plane.positions(); }
  /// A linear layer with hooks, of `in` to `out` features.
  Counted linear(const Counted& x, double tokens, double in, double out, const std::string& name, bool trains,
                 bool is_strided = false) const {
    const Counted y = tape_.linear(x, tokens * out, in * out, trains, is_strided);
    return pass_.hooks ? pass_.hooks->linear(tape_, x, y, name) : y;
  }
  Counted convolution(const Counted& x, const Plane& to, double in, double out, double kernel = 3) const {
    return tape_.convolution(x, tokens(to) * out, in * out * kernel * kernel, pass_.trains);
  }
  Counted norm(const Counted& x) const { return tape_.norm(x, pass_.trains); }
  Counted norm_activation(const Counted& x) const { return tape_.norm_activation(x, pass_.trains); }

  Counted resnet(const Counted& x, const Plane& plane, double in, double out, bool has_time) const {
    Counted hidden = convolution(norm_activation(x), plane, in, out);
    if (has_time) hidden = tape_.add(hidden, tape_.tensor(pass_.batch * out, pass_.element_size, pass_.trains));
    hidden = convolution(norm_activation(hidden), plane, out, out);
    return tape_.add(in == out ? x : convolution(x, plane, in, out, 1), hidden);
  }

 protected:
  MemoryTape& tape_;
  const Pass& pass_;
};

/// Blocks that are walked again in backward hold it.
class UNetWalk : Layers, public std::enable_shared_from_this<UNetWalk> {
 public:
  UNetWalk(MemoryTape& tape, const UNetConfig& config, const Pass& pass, const Counted& text, std::int64_t text_tokens)
      : Layers(tape, pass), config_(config), text_(text), text_tokens_(pass.batch * number(text_tokens)) {}

  Counted forward(std::int64_t height, std::int64_t width) {
    planes_ = {{height, width}};
    while (planes_.size() < config_.levels.size()) planes_.push_back(planes_.back().half());
    const double first = number(config_.levels.front().channels);
    const Counted sample = tape_.tensor(tokens(planes_[0]) * number(config_.in_channels), pass_.element_size);
    Counted hidden =
        convolution(sample, planes_[0], number(config_.in_channels), first, number(config_.conv_in_kernel));
    skips_ = {hidden};
    skip_channels_ = {first};
    down(hidden);
    mid(hidden);
    up(hidden);
    return convolution(norm_activation(hidden), planes_[0], first, number(config_.out_channels),
                       number(config_.conv_out_kernel));
  }

 private:
  void down(Counted& hidden) {
    double in = number(config_.levels.front().channels);
    for (std::size_t level = 0; level < config_.levels.size(); ++level) {
      const UNetConfig::Level& own = config_.levels[level];
      const double out = number(own.channels);
      const std::string name = "down_blocks." + std::to_string(level);
      for (std::int64_t i = 0; i < own.layers; ++i) {
        resnet_block(hidden, planes_[level], in, out);
        if (own.down_attention)
          transformer(hidden, planes_[level], own, name + ".attentions." + std::to_string(i), own.only_cross_attention);
        in = out;
        push(hidden, out);
      }
      if (level + 1 == config_.levels.size()) continue;
      hidden = convolution(hidden, planes_[level + 1], out, out);
      push(hidden, out);
    }
  }

  void mid(Counted& hidden) {
    const UNetConfig::Level& own = config_.levels.back();
    const double channels = number(own.channels);
    resnet_block(hidden, planes_.back(), channels, channels);
    transformer(hidden, planes_.back(), own, "mid_block.attentions.0", false);
    resnet_block(hidden, planes_.back(), channels, channels);
  }

  void up(Counted& hidden) {
    double in = number(config_.levels.back().channels);
    for (std::size_t level = config_.levels.size(); level-- > 0;) {
      const UNetConfig::Level& own = config_.levels[level];
      const double out = number(own.channels);
      const std::string name = "up_blocks." + std::to_string(config_.levels.size() - 1 - level);
      for (std::int64_t i = 0; i <= own.layers; ++i) {
        hidden = tape_.concatenate({hidden, skips_.back()});
        const double joined = in + skip_channels_.back();
        skips_.pop_back();
        skip_channels_.pop_back();
        resnet_block(hidden, planes_[level], joined, out);
        if (own.up_attention)
          transformer(hidden, planes_[level], own, name + ".attentions." + std::to_string(i), own.only_cross_attention);
        in = out;
      }
      if (level == 0) continue;
      hidden = tape_.resized(hidden, tokens(planes_[level - 1]) * out);
      hidden = convolution(hidden, planes_[level - 1], out, out);
    }
  }

  void push(const Counted& hidden, double channels) {
    skips_.push_back(hidden);
    skip_channels_.push_back(channels);
  }

  void resnet_block(Counted& hidden, const Plane& plane, double in, double out) {
    const auto block = [=, this, self = shared_from_this()](const std::vector<Counted>& inputs) {
      return resnet(inputs.front(), plane, in, out, /*has_time=*/true);
    };
    hidden = pass_.gradient_checkpointing ? tape_.recomputed(block, {hidden}) : block({hidden});
  }

  void transformer(Counted& hidden, const Plane& plane, const UNetConfig::Level& level, const std::string& name,
                   bool only_cross) {
    const auto layers = static_cast<std::size_t>(level.transformer_layers);
    const auto read_text = [this] { return read(text_, config_.cross_attention_dim, true); };
    const auto block = [=, this, &level, self = shared_from_this()](const std::vector<Counted>& inputs) {
      const double channels = number(level.channels), width = number(level.channels / level.heads * level.heads);
      const double count = tokens(plane);
      Counted inner = linear(norm(inputs.front()), count, channels, width, name + ".proj_in", pass_.trains, true);
      for (std::size_t i = 0; i < layers; ++i) {
        const auto text = inputs.size() > 1 ? std::pair(inputs[1 + 2 * i], inputs[2 + 2 * i]) : read_text();
        basic_block(inner, count, level, width, name + ".transformer_blocks." + std::to_string(i), only_cross, text);
      }
      inner = linear(inner, count, width, channels, name + ".proj_out", pass_.trains);
      return tape_.add(inputs.front(), inner);
    };
    if (!pass_.gradient_checkpointing) {
      hidden = block({hidden});
      return;
    }
    std::vector<Counted> inputs{hidden};
    for (std::size_t i = 0; i < layers; ++i) {
      const auto [key, value] = read_text();
      inputs.insert(inputs.end(), {key, value});
    }
    hidden = tape_.recomputed(block, inputs);
  }

  std::pair<Counted, Counted> read(const Counted& context, std::int64_t width, bool is_cross) const {
    return pass_.hooks ? pass_.hooks->attention_context(tape_, context, width, is_cross) : std::pair(context, context);
  }

  void basic_block(Counted& hidden, double count, const UNetConfig::Level& level, double width, const std::string& name,
                   bool only_cross, const std::pair<Counted, Counted>& text) const {
    {
      const Counted normalized = norm(hidden);
      const auto context = only_cross ? text : read(normalized, static_cast<std::int64_t>(width), false);
      hidden = tape_.add(attend(normalized, context, count, only_cross, level, width, name + ".attn1"), hidden);
    }
    hidden = tape_.add(attend(norm(hidden), text, count, true, level, width, name + ".attn2"), hidden);
    constexpr double kFactor = 4;
    Counted wide = linear(norm(hidden), count, width, 2 * kFactor * width, name + ".ff.net.0.proj", pass_.trains);
    wide = tape_.gated_gelu(wide);
    hidden = tape_.add(linear(wide, count, kFactor * width, width, name + ".ff.net.2", pass_.trains), hidden);
  }

  Counted attend(const Counted& query, const std::pair<Counted, Counted>& context, double count, bool reads_text,
                 const UNetConfig::Level& level, double width, const std::string& name) const {
    const bool trains = pass_.trains || pass_.trains_attention;
    const double keys = reads_text ? text_tokens_ : count;
    const double context_width = reads_text ? number(config_.cross_attention_dim) : width;
    const double f32 = config_.upcast_attention ? 4 : pass_.element_size;
    const Counted q = tape_.cast(linear(query, count, width, width, name + ".to_q", trains), f32);
    const Counted k = tape_.cast(linear(context.first, keys, context_width, width, name + ".to_k", trains), f32);
    const Counted v = tape_.cast(linear(context.second, keys, context_width, width, name + ".to_v", trains), f32);
    const Counted attended = tape_.attention(q, k, v, count * number(level.heads));
    return linear(tape_.cast(attended, pass_.element_size), count, width, width, name + ".to_out.0", trains);
  }

  const UNetConfig& config_;
  const Counted text_;
  double text_tokens_;
  std::vector<Plane> planes_;
  std::vector<Counted> skips_;
  std::vector<double> skip_channels_;
};

}  // namespace

Counted walk_unet(MemoryTape& tape, const UNetConfig& config, const Pass& pass, std::int64_t height, std::int64_t width,
                  const Counted& text, std::int64_t text_tokens) {
  if (pass.hooks) pass.hooks->begin_forward();
  return std::make_shared<UNetWalk>(tape, config, pass, text, text_tokens)->forward(height, width);
}

Counted walk_text_encoder(MemoryTape& tape, const TextEncoderShape& shape, const Pass& pass, std::int64_t length) {
  const Layers layers(tape, pass);
  const double count = pass.batch * number(length), width = number(shape.width);
  const double intermediate = number(shape.intermediate);
  Counted state = tape.tensor(count * width, pass.element_size, pass.trains);
  if (pass.hooks) state = pass.hooks->token_embedding(tape, state);
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const std::string name = "text_model.encoder.layers." + std::to_string(i);
    const auto linear = [&](const Counted& x, double in, double out, const char* which) {
      return layers.linear(x, count, in, out, name + which, pass.trains);
    };
    const Counted normalized = layers.norm(state);
    const Counted attended = tape.attention(linear(normalized, width, width, ".self_attn.q_proj"),
                                            linear(normalized, width, width, ".self_attn.k_proj"),
                                            linear(normalized, width, width, ".self_attn.v_proj"), count);
    state = tape.add(state, linear(attended, width, width, ".self_attn.out_proj"));
    const Counted expanded = tape.quick_gelu(linear(layers.norm(state), width, intermediate, ".mlp.fc1"));
    state = tape.add(state, linear(expanded, intermediate, width, ".mlp.fc2"));
  }
  return layers.norm(state);
}

void walk_decoder(MemoryTape& tape, const VAEConfig& config, const Pass& pass, std::int64_t height,
                  std::int64_t width) {
  const Layers layers(tape, pass);
  Plane plane{height, width};
  double in = number(config.block_out_channels.back());
  Counted hidden =
      layers.convolution(tape.tensor(layers.tokens(plane) * number(config.latent_channels), pass.element_size), plane,
                         number(config.latent_channels), in);
  hidden = layers.resnet(hidden, plane, in, in, false);
  if (config.mid_block_add_attention) {
    const Counted tokens = layers.norm(hidden);
    const auto project = [&](const Counted& x) { return tape.linear(x, x.elements, in * in, pass.trains, true); };
    const Counted attended = tape.attention(project(tokens), project(tokens), project(tokens), layers.tokens(plane));
    hidden = tape.add(hidden, project(attended));
  }
  hidden = layers.resnet(hidden, plane, in, in, false);
  for (std::size_t level = config.block_out_channels.size(); level-- > 0;) {
    const double out = number(config.block_out_channels[level]);
    for (std::int64_t i = 0; i <= config.layers_per_block; ++i) {
      hidden = layers.resnet(hidden, plane, in, out, false);
      in = out;
    }
    if (level == 0) continue;
    plane = plane.twice();
    hidden = layers.convolution(tape.resized(hidden, layers.tokens(plane) * out), plane, out, out);
  }
  layers.convolution(layers.norm_activation(hidden), plane, in, number(config.out_channels));
}

}  // namespace ldmtune::model
