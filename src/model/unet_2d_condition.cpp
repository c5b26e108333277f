#include "model/unet_2d_condition.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/timestep_embedding.h"
#include "model/unet_blocks.h"

namespace ldmtune::model {

namespace {

/// SDXL: pooled text and time ids as a vector of the time embedding's width.
struct AddedEmbedding {
  AddedEmbedding(Weights& weights, const UNetConfig& config)
      : sinusoids(config.addition_time_embed_dim, config.flip_sin_to_cos, config.freq_shift, weights.device()),
        projection(weights, "add_embedding", config.pooled_width + kTimeIds * config.addition_time_embed_dim,
                   config.time_embedding_dim, config.activation) {}

  // pooled (B, P), time_ids (B, 6) -> (B, time_embedding_dim).
  at::Tensor forward(const AddedConditioning& added, at::ScalarType dtype) const {
    const at::Tensor times = sinusoids.forward(added.time_ids.flatten()).view({added.time_ids.size(0), -1});
    return projection.forward(at::cat({added.pooled.to(times.scalar_type()), times}, 1).to(dtype));
  }

  static constexpr std::int64_t kTimeIds = 6;
  SinusoidalEmbedding sinusoids;
  TimestepEmbedding projection;
};

}  // namespace

at::Tensor time_ids(const std::vector<ImageSizes>& images) {
  std::vector<float> numbers;
  for (const ImageSizes& image : images) {
    for (const auto& pair : {image.original, image.crop, image.target}) {
      numbers.insert(numbers.end(), {static_cast<float>(pair[0]), static_cast<float>(pair[1])});
    }
  }
  return at::tensor(numbers, at::kFloat).view({-1, AddedEmbedding::kTimeIds});
}

struct UNet2DConditionModel::Impl {
  Impl(const nlohmann::json& json, Weights& weights);

  at::Tensor time_embedding_of(const at::Tensor& timestep, std::int64_t batch) const;
  void expect_shapes(const at::Tensor& sample, const at::Tensor& timestep, const at::Tensor& text) const;
  void expect_added(const AddedConditioning& added, std::int64_t batch) const;
  at::Tensor forward(const at::Tensor& sample, const at::Tensor& timestep, const at::Tensor& text, ModelHooks* hooks,
                     const AddedConditioning& added) const;

  UNetConfig config;
  AttentionLayers attention_layers;  // filled in order of evaluation as the blocks below are built
  Conv2d conv_in;
  SinusoidalEmbedding time_proj;
  TimestepEmbedding time_embedding;
  std::optional<AddedEmbedding> add_embedding;
  std::vector<DownBlock> down_blocks;
  std::optional<MidBlock> mid_block;
  std::vector<UpBlock> up_blocks;
  GroupNorm conv_norm_out;
  Conv2d conv_out;
  store::TensorMap parameters;
  bool gradient_checkpointing = false;
};

UNet2DConditionModel::Impl::Impl(const nlohmann::json& json, Weights& weights)
    : config(read_unet_config(json, "UNet2DConditionModel of " + weights.source())),
      conv_in(weights, "conv_in", config.in_channels, config.levels.front().channels,
              {.kernel = config.conv_in_kernel, .stride = 1, .padding = config.conv_in_kernel / 2}),
      time_proj(config.levels.front().channels, config.flip_sin_to_cos, config.freq_shift, weights.device()),
      time_embedding(weights, "time_embedding", config.levels.front().channels, config.time_embedding_dim,
                     config.activation),
      conv_norm_out(weights, "conv_norm_out", config.norm_num_groups, config.levels.front().channels, config.norm_eps),
      conv_out(weights, "conv_out", config.levels.front().channels, config.out_channels,
               {.kernel = config.conv_out_kernel, .stride = 1, .padding = config.conv_out_kernel / 2}) {
  if (config.pooled_width > 0) add_embedding.emplace(weights, config);
  const std::size_t levels = config.levels.size();
  for (std::size_t i = 0; i < levels; ++i) down_blocks.emplace_back(weights, config, i, attention_layers);
  mid_block.emplace(weights, config, attention_layers);
  for (std::size_t i = levels; i-- > 0;) up_blocks.emplace_back(weights, config, i, attention_layers);
  parameters = weights.taken();
}

at::Tensor UNet2DConditionModel::Impl::time_embedding_of(const at::Tensor& timestep, std::int64_t batch) const {
  const at::Tensor embedding = time_embedding.forward(time_proj.forward(timestep).to(conv_in.dtype()));
  return embedding.size(0) == batch ? embedding : embedding.expand({batch, -1});
}

void UNet2DConditionModel::Impl::expect_shapes(const at::Tensor& sample, const at::Tensor& timestep,
                                               const at::Tensor& text) const {
  if (sample.dim() != 4 || sample.size(1) != config.in_channels) {
    fail("UNet: expected a sample of shape (B, ", config.in_channels, ", h, w), found ", sample.sizes());
  }
  if (timestep.dim() != 1 || (timestep.size(0) != sample.size(0) && timestep.size(0) != 1)) {
    fail("UNet: expected ", sample.size(0), " timesteps, found ", timestep.sizes());
  }
  if (text.dim() != 3 || text.size(0) != sample.size(0) || text.size(2) != config.cross_attention_dim) {
    fail("UNet: expected a text context of shape (", sample.size(0), ", T, ", config.cross_attention_dim, "), found ",
         text.sizes());
  }
}

void UNet2DConditionModel::Impl::expect_added(const AddedConditioning& added, std::int64_t batch) const {
  if (!add_embedding) {
    if (added.pooled.defined() || added.time_ids.defined()) fail("UNet: this one takes no added conditioning");
    return;
  }
  const auto is = [&](const at::Tensor& tensor, std::int64_t width) {
    return tensor.defined() && tensor.dim() == 2 && tensor.size(0) == batch && tensor.size(1) == width;
  };
  if (!is(added.pooled, config.pooled_width) || !is(added.time_ids, AddedEmbedding::kTimeIds)) {
    fail("UNet: expected added conditioning of shapes (", batch, ", ", config.pooled_width, ") and (", batch, ", ",
         AddedEmbedding::kTimeIds, ")");
  }
}

at::Tensor UNet2DConditionModel::Impl::forward(const at::Tensor& sample, const at::Tensor& timestep,
                                               const at::Tensor& text, ModelHooks* hooks,
                                               const AddedConditioning& added) const {
  expect_shapes(sample, timestep, text);
  expect_added(added, sample.size(0));
  if (hooks && hooks->is_identity()) hooks = nullptr;
  if (hooks) hooks->begin_forward();
  at::Tensor embedding = time_embedding_of(timestep, sample.size(0));
  if (add_embedding) embedding = embedding + add_embedding->forward(added, conv_in.dtype());
  const at::Tensor time = activate(embedding, config.activation);
  const at::Tensor context = text.to(conv_in.dtype());
  const Conditioning conditioning{time, context, hooks, gradient_checkpointing};

  const at::Tensor input = sample.to(conv_in.dtype()).contiguous();
  at::Tensor hidden = conv_in.forward(config.center_input_sample ? 2.0 * input - 1.0 : input);
  Skips skips{hidden};
  for (const DownBlock& block : down_blocks) hidden = block.forward(hidden, conditioning, skips);
  hidden = mid_block->forward(hidden, conditioning);
  for (const UpBlock& block : up_blocks) hidden = block.forward(hidden, conditioning, skips);
  return conv_out.forward(conv_norm_out.forward(hidden, config.activation));
}

UNet2DConditionModel::UNet2DConditionModel(const nlohmann::json& config, Weights& weights)
    : impl_(std::make_unique<Impl>(config, weights)) {}
UNet2DConditionModel::~UNet2DConditionModel() = default;
UNet2DConditionModel::UNet2DConditionModel(UNet2DConditionModel&&) noexcept = default;

at::Tensor UNet2DConditionModel::forward(const at::Tensor& sample, const at::Tensor& timestep,
                                         const at::Tensor& encoder_hidden_states, ModelHooks* hooks,
                                         const AddedConditioning& added) const {
  return impl_->forward(sample, timestep, encoder_hidden_states, hooks, added);
}

void UNet2DConditionModel::set_gradient_checkpointing(bool enabled) { impl_->gradient_checkpointing = enabled; }

const store::TensorMap& UNet2DConditionModel::parameters() const { return impl_->parameters; }
const UNetConfig& UNet2DConditionModel::config() const { return impl_->config; }
std::int64_t UNet2DConditionModel::in_channels() const { return impl_->config.in_channels; }
std::int64_t UNet2DConditionModel::cross_attention_dim() const { return impl_->config.cross_attention_dim; }
bool UNet2DConditionModel::takes_added_conditioning() const { return impl_->config.pooled_width > 0; }
std::int64_t UNet2DConditionModel::pooled_width() const { return impl_->config.pooled_width; }
std::int64_t UNet2DConditionModel::sample_size() const { return impl_->config.sample_size; }

std::set<std::int64_t> UNet2DConditionModel::context_widths() const {
  std::set<std::int64_t> widths;
  for (const AttentionLayer& layer : impl_->attention_layers) widths.insert(layer.context_width);
  return widths;
}

const std::vector<UNet2DConditionModel::AttentionLayer>& UNet2DConditionModel::attention_layers() const {
  return impl_->attention_layers;
}

}  // namespace ldmtune::model
