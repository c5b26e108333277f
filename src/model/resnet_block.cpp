#include "model/resnet_block.h"

#include "model/recompute.h"

namespace ldmtune::model {

ResnetBlock2D::ResnetBlock2D(Weights& weights, const std::string& name, const ResnetOptions& options)
    : norm1_(weights, name + ".norm1", options.groups, options.in_channels, options.eps),
      conv1_(weights, name + ".conv1", options.in_channels, options.out_channels),
      norm2_(weights, name + ".norm2", options.groups, options.out_channels, options.eps),
      conv2_(weights, name + ".conv2", options.out_channels, options.out_channels),
      activation_(options.activation),
      output_scale_factor_(options.output_scale_factor) {
  if (options.time_channels > 0) {
    time_emb_proj_.emplace(weights, name + ".time_emb_proj", options.time_channels, options.out_channels);
  }
  if (options.in_channels != options.out_channels) {
    conv_shortcut_.emplace(weights, name + ".conv_shortcut", options.in_channels, options.out_channels,
                           Conv2d::Geometry{.kernel = 1, .stride = 1, .padding = 0});
  }
}

at::Tensor ResnetBlock2D::forward(const at::Tensor& input, const at::Tensor& time) const {
  return forward(input, input, time);
}

at::Tensor ResnetBlock2D::forward_recomputed(const at::Tensor& input, const at::Tensor& time) const {
  const auto again = [this](const std::vector<at::Tensor>& in) { return forward(in[0], in[1], in[2]); };
  return recompute_in_backward(again, {input, input, time});  // backward comes to the residual first
}

at::Tensor ResnetBlock2D::forward(const at::Tensor& residual, const at::Tensor& input, const at::Tensor& time) const {
  at::Tensor hidden = conv1_.forward(norm1_.forward(input, activation_));
  if (time_emb_proj_) hidden = hidden + time_emb_proj_->forward(time).unsqueeze(-1).unsqueeze(-1);
  hidden = conv2_.forward(norm2_.forward(hidden, activation_));
  const at::Tensor output = (conv_shortcut_ ? conv_shortcut_->forward(residual) : residual) + hidden;
  return output_scale_factor_ == 1.0 ? output : output / output_scale_factor_;
}

Downsample2D::Downsample2D(Weights& weights, const std::string& name, std::int64_t channels, std::int64_t padding)
    : conv_(weights, name + ".conv", channels, channels, {.kernel = 3, .stride = 2, .padding = padding}),
      pad_far_side_(padding == 0) {}

at::Tensor Downsample2D::forward(const at::Tensor& input) const {
  return conv_.forward(pad_far_side_ ? at::constant_pad_nd(input, {0, 1, 0, 1}) : input);
}

Upsample2D::Upsample2D(Weights& weights, const std::string& name, std::int64_t channels)
    : conv_(weights, name + ".conv", channels, channels) {}

at::Tensor Upsample2D::forward(const at::Tensor& input, std::int64_t height, std::int64_t width) const {
  return conv_.forward(at::upsample_nearest2d(input, {height, width}));
}

}  // namespace ldmtune::model
