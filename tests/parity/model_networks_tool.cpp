// Runs one network of ldmtune on stored inputs, for test_networks.py to compare with diffusers and transformers.
//
//   model_networks_tool unet|vae|text|text_xl FOLDER INPUTS OUTPUTS [float|bfloat16|half]
//
// FOLDER holds config.json and weights as save_pretrained writes them; INPUTS and OUTPUTS are safetensors:
//   unet  sample, timestep, encoder_hidden_states [, pooled, time_ids] [, cotangent] -> sample [, gradient.<name>]
//   vae   image, latent                                        -> mean, stddev, image
//   text  input_ids [, cotangent]                              -> last_hidden_state [, gradient.<name>]
//   text_xl  input_ids, cotangent, cotangent_pooled            -> hidden (penultimate), pooled, gradient.<name>
// With a cotangent (the shape of the output) the gradients of sum(output * cotangent) follow, for the inputs and every
// parameter.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_encoder.h"
#include "model/unet_2d_condition.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::model {

namespace {

const std::string kTextPrefix = "text_model.";

at::ScalarType dtype_named(const std::string& name) {
  if (name == "float") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "half") return at::kHalf;
  fail_input("unknown dtype ", name, ", expected float, bfloat16 or half");
}

Weights read_weights(const std::filesystem::path& folder, const std::string& stem, at::ScalarType dtype) {
  return Weights(store::read_sharded_safetensors(folder, stem, ""), folder.string(), dtype);
}

// transformers 5 leaves the prefix out.
Weights read_text_weights(const std::filesystem::path& folder, at::ScalarType dtype) {
  store::TensorMap published;
  for (auto& [key, tensor] : store::read_sharded_safetensors(folder, "model", "")) {
    const bool is_named = key.starts_with(kTextPrefix) || key.starts_with("text_projection");
    published.emplace(is_named ? key : kTextPrefix + key, tensor);
  }
  return Weights(std::move(published), folder.string(), dtype);
}

void collect_gradients(const store::TensorMap& leaves, store::TensorMap& results) {
  for (const auto& [name, leaf] : leaves) {
    if (!leaf.grad().defined()) fail("no gradient reached ", name);
    results["gradient." + name] = leaf.grad();
  }
}

void backward(const at::Tensor& output, const at::Tensor& cotangent, const store::TensorMap& leaves,
              store::TensorMap& results) {
  output.backward(cotangent.to(output.scalar_type()));
  collect_gradients(leaves, results);
}

void expect_gradients(const store::TensorMap& leaves) {
  for (const auto& [name, leaf] : leaves) leaf.set_requires_grad(true);
}

store::TensorMap run_unet(const std::filesystem::path& folder, const store::TensorMap& inputs, at::ScalarType dtype) {
  Weights weights = read_weights(folder, "diffusion_pytorch_model", dtype);
  const UNet2DConditionModel unet(store::read_json(folder / "config.json"), weights);
  weights.expect_all_taken();
  const bool trains = inputs.count("cotangent") > 0;
  const at::AutoGradMode mode(trains);
  store::TensorMap leaves, results;
  if (trains) {
    leaves = unet.parameters();
    leaves["sample"] = inputs.at("sample");
    leaves["encoder_hidden_states"] = inputs.at("encoder_hidden_states");
    if (unet.takes_added_conditioning()) leaves["pooled"] = inputs.at("pooled");
    expect_gradients(leaves);
  }
  AddedConditioning added;
  if (unet.takes_added_conditioning()) added = {inputs.at("pooled"), inputs.at("time_ids")};
  const at::Tensor output =
      unet.forward(inputs.at("sample"), inputs.at("timestep"), inputs.at("encoder_hidden_states"), nullptr, added);
  if (trains) backward(output, inputs.at("cotangent"), leaves, results);
  results["sample"] = output.detach();
  return results;
}

store::TensorMap run_text(const std::filesystem::path& folder, const store::TensorMap& inputs, at::ScalarType dtype) {
  Weights weights = read_text_weights(folder, dtype);
  const CLIPTextEncoder encoder(store::read_json(folder / "config.json"), weights);
  weights.expect_all_taken();
  const bool trains = inputs.count("cotangent") > 0;
  const at::AutoGradMode mode(trains);
  store::TensorMap results;
  if (trains) expect_gradients(encoder.parameters());
  const at::Tensor output = encoder.forward(inputs.at("input_ids"));
  if (trains) backward(output, inputs.at("cotangent"), encoder.parameters(), results);
  results["last_hidden_state"] = output.detach();
  return results;
}

store::TensorMap run_text_xl(const std::filesystem::path& folder, const store::TensorMap& inputs,
                             at::ScalarType dtype) {
  Weights weights = read_text_weights(folder, dtype);
  const CLIPTextEncoder encoder(store::read_json(folder / "config.json"), weights);
  weights.expect_all_taken();
  expect_gradients(encoder.parameters());
  const auto output = encoder.hidden_state(inputs.at("input_ids"), /*clip_skip=*/2, /*pools=*/true);
  store::TensorMap results{{"hidden", output.hidden.detach()}, {"pooled", output.pooled.detach()}};
  const at::Tensor sum =
      (output.hidden * inputs.at("cotangent")).sum() + (output.pooled * inputs.at("cotangent_pooled")).sum();
  sum.backward();
  collect_gradients(encoder.parameters(), results);
  return results;
}

store::TensorMap run_vae(const std::filesystem::path& folder, const store::TensorMap& inputs, at::ScalarType dtype) {
  Weights weights = read_weights(folder, "diffusion_pytorch_model", dtype);
  const AutoencoderKL vae(store::read_json(folder / "config.json"), weights);
  weights.expect_all_taken();
  const at::NoGradGuard no_grad;
  const AutoencoderKL::Posterior posterior = vae.encode(inputs.at("image"));
  return {{"mean", posterior.mean}, {"stddev", posterior.stddev}, {"image", vae.decode(inputs.at("latent"))}};
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4 || arguments.size() > 5) {
    fail_input("expected: unet|vae|text|text_xl FOLDER INPUTS OUTPUTS [dtype]");
  }
  const at::ScalarType dtype = dtype_named(arguments.size() > 4 ? arguments[4] : "float");
  const store::TensorMap inputs = store::read_safetensors(arguments[2]).tensors;
  at::set_num_threads(1);
  store::TensorMap results;
  if (arguments[0] == "unet") results = run_unet(arguments[1], inputs, dtype);
  if (arguments[0] == "vae") results = run_vae(arguments[1], inputs, dtype);
  if (arguments[0] == "text_xl") results = run_text_xl(arguments[1], inputs, dtype);
  if (arguments[0] == "text") results = run_text(arguments[1], inputs, dtype);
  if (results.empty()) fail_input("unknown network ", arguments[0]);
  store::write_safetensors(arguments[3], results);
  return 0;
}

}  // namespace

}  // namespace ldmtune::model

int main(int argc, char** argv) {
  try {
    return ldmtune::model::run({argv + 1, argv + argc});
  } catch (const ldmtune::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
