#include "adapt/dreambooth.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "core/error.h"
#include "model/text_conditioning.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {
namespace {

model::BaseModel fresh_base() {
  model::BaseModelOptions options;
  options.vae = false;
  return model::load_base_model(std::filesystem::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base", options);
}

DreamboothConfig settings(const std::string& train_unet, bool train_text_encoder) {
  DreamboothConfig config;
  config.train_unet = train_unet;
  config.train_text_encoder = train_text_encoder;
  return config;
}

TEST(Dreambooth, TrainsWhatTheOptionsName) {
  const model::BaseModel base = fresh_base();
  const auto count = [&](const std::string& train_unet, bool train_text_encoder, std::int64_t clip_skip = 1) {
    return Dreambooth::from_config(settings(train_unet, train_text_encoder), clip_skip, base).weights().size();
  };
  const std::size_t unet = base.unet->parameters().size(), text = base.text_encoder->parameters().size();
  EXPECT_EQ(count("all", false), unet);
  EXPECT_EQ(count("all", true), unet + text);
  EXPECT_EQ(count("none", true), text);
  EXPECT_EQ(count("none", true, 2), text - 16) << "a layer that clip_skip leaves out has no gradient";
  const Dreambooth attention = Dreambooth::from_config(settings("attention", false), 1, base);
  for (const BaseWeight& weight : attention.weights()) {
    EXPECT_NE(weight.key.find(".attn"), std::string::npos) << weight.key;
  }
  EXPECT_LT(count("attention", false), unet);
  for (const bool text_encoder : {false, true}) {
    const auto config = settings("attention", text_encoder);
    const auto loaded = Dreambooth::from_config(config, 2, base).parameters();
    const auto from_headers = dreambooth_parameters(config, 2, base.folder);
    ASSERT_EQ(loaded.size(), from_headers.size());
    for (std::size_t i = 0; i < loaded.size(); ++i) {
      EXPECT_EQ(loaded[i].name, from_headers[i].name);
      EXPECT_EQ(loaded[i].shape, from_headers[i].shape);
    }
  }
  EXPECT_THROW(dreambooth_parameters(settings("all", false), 1, base.folder / "unet"), InputError);
  EXPECT_THROW(count("none", false), InputError);
  EXPECT_THROW(count("some", false), InputError);
}

TEST(Dreambooth, NamesAndGroupsParametersByComponent) {
  const model::BaseModel base = fresh_base();
  const Dreambooth adapter = Dreambooth::from_config(settings("all", true), 1, base);
  EXPECT_TRUE(adapter.changes_base());
  EXPECT_TRUE(adapter.trains_text_encoder());
  EXPECT_FALSE(Dreambooth::from_config(settings("all", false), 1, base).trains_text_encoder());
  std::set<std::string> groups;
  for (const optim::ParameterSpec& spec : adapter.parameters()) {
    EXPECT_EQ(spec.name.rfind(spec.group + ".", 0), 0u) << spec.name;
    groups.insert(spec.group);
  }
  EXPECT_EQ(groups, (std::set<std::string>{"text_encoder", "unet"}));
}

TEST(Dreambooth, WeightsInTheModelAreThoseOfTheArena) {
  const model::BaseModel base = fresh_base(), untouched = fresh_base();
  const Dreambooth adapter = Dreambooth::from_config(settings("all", false), 1, base);
  optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 7);
  adapter.bind(arena);
  const at::Tensor noisy = at::full({1, 4, 16, 16}, 0.5f), timestep = at::tensor({10}),
                   context = at::full({1, 77, base.unet->cross_attention_dim()}, 0.1f);
  const at::Tensor prediction = base.unet->forward(noisy, timestep, context);
  EXPECT_TRUE(at::equal(prediction, untouched.unet->forward(noisy, timestep, context)));

  prediction.square().mean().backward();
  for (const auto& [name, gradient] : arena.gradient_views()) {
    EXPECT_GT(gradient.abs().max().item<float>(), 0) << name;
  }
  arena.parameter("unet.conv_out.bias").detach().add_(1);
  const at::Tensor shifted = base.unet->forward(noisy, timestep, context);
  EXPECT_TRUE(at::allclose(shifted, prediction + 1, 1e-5, 1e-5));
}

TEST(Dreambooth, InBf16TheModelHasRoundedCopies) {
  const model::BaseModel base = fresh_base(), untouched = fresh_base();
  const Dreambooth adapter = Dreambooth::from_config(settings("attention", true), 1, base);
  optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 7);
  cast_networks(base, at::kBFloat16);
  adapter.bind(arena);
  for (const BaseWeight& weight : adapter.weights()) {
    const at::Tensor original = parameters_of(untouched, weight.component)->at(weight.key);
    EXPECT_TRUE(at::equal(arena.parameter(weight.full_name()).detach(), original)) << weight.key;
    EXPECT_TRUE(at::equal(weight.tensor.detach(), original.to(at::kBFloat16))) << weight.key;
  }
  for (const auto& [key, tensor] : base.unet->parameters()) EXPECT_EQ(tensor.scalar_type(), at::kBFloat16) << key;

  const auto forward = [](const model::BaseModel& model) {
    const at::Tensor noisy = at::linspace(-1, 1, 1024).view({1, 4, 16, 16}), timestep = at::tensor({10}),
                     ids = at::arange(model.model_max_length).unsqueeze(0);
    const at::Tensor context = model::encode_text(model, ids, {}).context;
    return model.unet->forward(noisy, timestep, context).to(at::kFloat);
  };
  const at::Tensor prediction = forward(base), exact = forward(untouched);
  EXPECT_GT((prediction - exact).abs().max().item<float>(), 0);
  EXPECT_LT((prediction - exact).abs().max().item<float>(), 0.05 * exact.abs().max().item<float>());
  prediction.square().mean().backward();
  for (const auto& [name, gradient] : arena.gradient_views()) EXPECT_TRUE(gradient.ne(0).any().item<bool>()) << name;
  for (const BaseWeight& weight : adapter.weights()) EXPECT_FALSE(weight.tensor.grad().defined()) << weight.key;
}

TEST(Dreambooth, ItsFileGoesBackIntoABase) {
  const at::NoGradGuard no_grad;
  const model::BaseModel base = fresh_base(), other = fresh_base();
  const Dreambooth adapter = Dreambooth::from_config(settings("attention", false), 1, base);
  optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 7);
  arena.parameters().mul_(1.5);
  const auto file =
      std::filesystem::temp_directory_path() / ("ldmtune-dreambooth-" + std::to_string(getpid()) + ".safetensors");
  adapter.export_file(arena, file, {"subject", 12, "abc", "emoji-base", false});
  const store::SafetensorsFile read = store::read_safetensors(file);
  std::filesystem::remove(file);
  EXPECT_EQ(read.metadata.at("ldmtune.step"), "12");
  adapter.export_file(arena, file, {.step = 12});
  EXPECT_EQ(store::read_safetensors(file).metadata.count("ldmtune.name"), 0u);
  std::filesystem::remove(file);

  load_trained_weights(read.tensors, file, other);
  for (const auto& [key, tensor] : other.unet->parameters()) {
    const at::Tensor before = base.unet->parameters().at(key);
    EXPECT_TRUE(at::equal(tensor, read.tensors.count("unet." + key) ? before * 1.5 : before)) << key;
  }
  EXPECT_THROW(load_trained_weights({{"unet.nothing", at::ones({1})}}, file, other), InputError);
  EXPECT_THROW(load_trained_weights({{"vae.conv", at::ones({1})}}, file, other), InputError);
  EXPECT_THROW(load_trained_weights({{"unet.conv_out.bias", at::ones({1})}}, file, other), InputError);
}

}  // namespace
}  // namespace ldmtune::adapt
