#include <gtest/gtest.h>

#include "expect_error.h"
#include "model/autoencoder_kl.h"
#include "random_model.h"

namespace ldmtune::model {
namespace {

AutoencoderKL small_vae(const nlohmann::json& changes = {}, at::ScalarType dtype = at::kFloat) {
  nlohmann::json config = small_vae_config();
  if (!changes.is_null()) config.update(changes);
  Weights weights = random_weights(dtype);
  return AutoencoderKL(config, weights);
}

TEST(AutoencoderKL, HalvesAnImageOnceALevelButTheLast) {
  const AutoencoderKL vae = small_vae();
  EXPECT_EQ(vae.downscale_factor(), 2);
  EXPECT_EQ(vae.latent_channels(), 4);
  const auto posterior = vae.encode(random_normal({2, 3, 10, 6}, 1));
  EXPECT_EQ(posterior.mean.sizes(), (at::IntArrayRef{2, 4, 5, 3}));
  EXPECT_EQ(posterior.stddev.sizes(), posterior.mean.sizes());
  EXPECT_TRUE((posterior.stddev > 0).all().item<bool>());
  EXPECT_EQ(vae.decode(posterior.mean).sizes(), (at::IntArrayRef{2, 3, 10, 6}));
}

TEST(AutoencoderKL, TakesTheScalingFactorOfStableDiffusion1WhereNoneIsGiven) {
  EXPECT_EQ(small_vae().scaling_factor(), 0.18215);
  EXPECT_EQ(small_vae({{"scaling_factor", 0.4}}).scaling_factor(), 0.4);
}

TEST(AutoencoderKL, ClampsTheLogVariance) {
  Weights weights = random_weights();
  const AutoencoderKL vae(small_vae_config(), weights);
  const at::Tensor bias = weights.taken().at("quant_conv.bias");
  bias.narrow(0, 4, 2).fill_(1e4);
  bias.narrow(0, 6, 2).fill_(-1e4);
  const at::Tensor stddev = vae.encode(random_normal({1, 3, 4, 4}, 2)).stddev;
  EXPECT_TRUE(at::allclose(stddev.narrow(1, 0, 2), at::full({1, 2, 2, 2}, std::exp(10.0))));
  EXPECT_TRUE(at::allclose(stddev.narrow(1, 2, 2), at::full({1, 2, 2, 2}, std::exp(-15.0))));
}

TEST(AutoencoderKL, LeavesOutWhatItsConfigurationLeavesOut) {
  const AutoencoderKL vae =
      small_vae({{"use_quant_conv", false}, {"use_post_quant_conv", false}, {"mid_block_add_attention", false}});
  for (const auto& [key, tensor] : vae.parameters()) {
    EXPECT_EQ(key.find("quant_conv"), std::string::npos) << key;
    EXPECT_EQ(key.find("attentions"), std::string::npos) << key;
  }
  EXPECT_EQ(vae.decode(random_normal({1, 4, 2, 2}, 3)).sizes(), (at::IntArrayRef{1, 3, 4, 4}));
}

TEST(AutoencoderKL, ComputesInItsOwnType) {
  const AutoencoderKL vae = small_vae({}, at::kBFloat16);
  const at::Tensor image = random_normal({1, 3, 8, 8}, 4);
  EXPECT_EQ(vae.encode(image).mean.scalar_type(), at::kBFloat16);
  EXPECT_EQ(vae.decode(random_normal({1, 4, 4, 4}, 5)).scalar_type(), at::kBFloat16);
}

TEST(AutoencoderKL, RefusesWhatIsNotBuilt) {
  const std::vector<std::pair<std::string, nlohmann::json>> refused{
      {"shift_factor", 0.1},
      {"latents_mean", {0.0, 1.0}},
      {"latents_std", {1.0, 1.0}},
      {"down_block_types", {"DownEncoderBlock2D", "AttnDownEncoderBlock2D"}},
      {"up_block_types", {"UpDecoderBlock2D"}},
      {"scaling_factor", 0},
      {"layers_per_block", 0},
      {"encoder_trick", true}};
  for (const auto& [key, value] : refused) {
    expect_input_error([&, k = key, v = value] { small_vae({{k, v}}); }, {"AutoencoderKL", key + " = " + value.dump()});
  }
}

TEST(AutoencoderKL, RefusesInputsOfTheWrongShape) {
  const AutoencoderKL vae = small_vae();
  EXPECT_THROW(vae.encode(random_normal({1, 3, 5, 4}, 1)), Error);
  EXPECT_THROW(vae.encode(random_normal({1, 4, 4, 4}, 1)), Error);
  EXPECT_THROW(vae.decode(random_normal({1, 3, 4, 4}, 1)), Error);
}

}  // namespace
}  // namespace ldmtune::model
