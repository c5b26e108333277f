#include "adapt/init_from.h"

#include <gtest/gtest.h>

#include "small_lora.h"

namespace ldmtune::adapt {
namespace {

std::string value_of(const JobOptions& options, const std::string& name) {
  for (const auto& [option, value] : options) {
    if (option == name) return value;
  }
  return "(none)";
}

TEST(InitFrom, DescribesANetworkByItsOptions) {
  const JobOptions options = job_options(full_spec());
  EXPECT_EQ(value_of(options, "hypernetwork.layer_structure"), "1,2,1.5,1");
  EXPECT_EQ(value_of(options, "hypernetwork.activation"), "silu");
  EXPECT_EQ(value_of(options, "hypernetwork.layer_norm"), "true");
  EXPECT_EQ(value_of(options, "hypernetwork.activate_output"), "true");
  EXPECT_EQ(value_of(options, "hypernetwork.widths"), "8,12");
  EXPECT_EQ(value_of(options, "hypernetwork.dropout_structure"), "0,0.25,0.5,0.125");
  HypernetworkSpec plain;
  plain.widths = {8};
  EXPECT_EQ(value_of(job_options(plain), "hypernetwork.dropout_structure"), "(none)");
}

/// The two layers of a block, and one of the same ending in another.
std::vector<LoraSite> sites() {
  return {{"unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", {8, 8}},
          {"unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", {8, 12}},
          {"unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0", {8, 8}},
          {"unet", "down_blocks.0.resnets.0.to_k", {8, 8}},  // no hook: never a target
          {"text_encoder", "text_model.encoder.layers.0.self_attn.q_proj", {12, 12}}};
}

TEST(InitFrom, NamesTargetsByTheirEndsWhereTheseChooseNothingElse) {
  const std::vector<LoraSite> all = sites();
  EXPECT_EQ(lora_targets({all[0], all[1], all[2]}, all), "to_k, to_out.0");
  EXPECT_EQ(lora_targets({all[0]}, all), all[0].name) << "the end alone would choose attn2 too";
  EXPECT_EQ(lora_targets({all[4]}, all), "q_proj");
  EXPECT_EQ(lora_targets({}, all), "");
}

TEST(InitFrom, ItsTargetsChooseTheSameLayersAgain) {
  const std::vector<LoraSite> all = sites();
  for (const std::vector<LoraSite>& chosen : {std::vector{all[0]}, {all[0], all[1]}, {all[1], all[2]}}) {
    std::vector<LoraModule> modules;
    for (const LoraSite& site : chosen) modules.push_back({site, 4, 2});
    const JobOptions options = job_options(Lora(modules), all);
    LoraConfig config;
    config.rank = std::stoll(value_of(options, "lora.rank"));
    config.alpha = std::stod(value_of(options, "lora.alpha"));
    config.target_modules = value_of(options, "lora.target_modules");
    config.text_encoder_target_modules = value_of(options, "lora.text_encoder_target_modules");
    const Lora again = Lora::from_config(config, all);
    ASSERT_EQ(again.modules().size(), modules.size());
    for (std::size_t i = 0; i < modules.size(); ++i) {
      EXPECT_EQ(again.modules()[i].site.name, modules[i].site.name);
      EXPECT_EQ(again.modules()[i].rank, 4);
      EXPECT_EQ(again.modules()[i].alpha, 2);
    }
  }
}

}  // namespace
}  // namespace ldmtune::adapt
