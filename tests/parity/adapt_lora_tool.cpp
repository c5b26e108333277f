// Runs LoRAs of ldmtune on stored inputs, for test_lora.py to compare with PEFT and diffusers.
//
//   adapt_lora_tool forward BASE LORA STRENGTH INPUTS OUTPUTS   through hooks; with {cotangent} gradients of
//                                                               sum(sample * cotangent) for every factor
//   adapt_lora_tool merged BASE MERGE INPUTS OUTPUTS            MERGE as base.merge; prints the hash before and after
//   adapt_lora_tool rewrite BASE LORA OUT diffusers|kohya       reads a file and writes it again
//   adapt_lora_tool create BASE OUT RANK ALPHA TARGETS TEXT_TARGETS SEED   a fresh LoRA
//
// INPUTS {input_ids, sample, timestep [, time_ids] [, cotangent]}, OUTPUTS {context, sample [, gradient.<parameter>]}.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cstdio>

#include "adapt/lora_file.h"
#include "adapt/merge.h"
#include "core/error.h"
#include "model/text_conditioning.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {

namespace {

model::BaseModel load(const std::string& folder) {
  model::BaseModelOptions options;
  options.vae = false;
  return model::load_base_model(folder, options);
}

store::TensorMap run_base(const model::BaseModel& base, const store::TensorMap& inputs, model::ModelHooks* hooks) {
  model::TextOptions text;
  text.hooks = hooks;
  const auto conditioning = model::encode_text(base, inputs.at("input_ids"), text);
  model::AddedConditioning added;
  if (base.unet->takes_added_conditioning()) added = {conditioning.pooled, inputs.at("time_ids")};
  const at::Tensor sample =
      base.unet->forward(inputs.at("sample"), inputs.at("timestep"), conditioning.context, hooks, added);
  return {{"context", conditioning.context}, {"sample", sample}};
}

store::TensorMap detached(store::TensorMap tensors) {
  for (auto& [name, tensor] : tensors) tensor = tensor.detach().contiguous();
  return tensors;
}

void forward(const std::vector<std::string>& words) {
  const model::BaseModel base = load(words[1]);
  const LoraFile file = read_lora(words[2], lora_sites(base));
  expect_hooks(*file.lora, words[2]);
  const auto inputs = store::read_safetensors(words[4]).tensors;
  ForwardContext context;
  context.strength = std::stod(words[3]);
  const auto hooks = file.lora->hooks(*file.arena, context);
  store::TensorMap outputs = run_base(base, inputs, hooks.get());
  if (inputs.count("cotangent") > 0) {
    outputs.at("sample").backward(inputs.at("cotangent"));
    for (const auto& [name, gradient] : file.arena->gradient_views()) outputs["gradient." + name] = gradient;
  }
  store::write_safetensors(words[5], detached(outputs));
}

void merged(const std::vector<std::string>& words) {
  const at::NoGradGuard no_grad;
  model::BaseModel base = load(words[1]);
  std::printf("%s\n", base.sha256.c_str());
  merge_into(base, words[2]);
  std::printf("%s\n", base.sha256.c_str());
  store::write_safetensors(words[4], detached(run_base(base, store::read_safetensors(words[3]).tensors, nullptr)));
}

void rewrite(const std::vector<std::string>& words) {
  const LoraFile file = read_lora(words[2], lora_sites(load(words[1])));
  write_lora(*file.lora, *file.arena, words[3], parse_lora_layout(words[4]),
             {file.name, file.step, file.base_sha256, file.base_name});
}

void create(const std::vector<std::string>& words) {
  LoraConfig config;
  config.rank = std::stoll(words[3]);
  config.alpha = std::stod(words[4]);
  config.target_modules = words[5];
  config.text_encoder_target_modules = words[6];
  const Lora lora = Lora::from_config(config, lora_sites(load(words[1])));
  const optim::Arena arena(lora.parameters());
  lora.initialize(arena, std::stoull(words[7]));
  lora.export_file(arena, words[2], {"created", 17, "abc123", "the base"});
}

int run(const std::vector<std::string>& words) {
  at::set_num_threads(1);
  if (words.size() == 6 && words[0] == "forward") {
    forward(words);
  } else if (words.size() == 5 && words[0] == "merged") {
    merged(words);
  } else if (words.size() == 5 && words[0] == "rewrite") {
    rewrite(words);
  } else if (words.size() == 8 && words[0] == "create") {
    create(words);
  } else {
    fail_input("usage: see the head of adapt_lora_tool.cpp");
  }
  return 0;
}

}  // namespace

}  // namespace ldmtune::adapt

int main(int argc, char** argv) {
  try {
    return ldmtune::adapt::run({argv + 1, argv + argc});
  } catch (const ldmtune::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
