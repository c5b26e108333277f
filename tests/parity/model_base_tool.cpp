// model_base_tool FOLDER VARIANT DTYPE [INPUTS.safetensors OUTPUTS.safetensors]: loads a base model (VARIANT "-" for
// none, DTYPE float32|float16|bfloat16) and writes its hashes as JSON; with INPUTS {input_ids, sample, timestep, image}
// also runs it: OUTPUTS {context, prediction, mean, stddev, decoded}. Bad input: message on standard error, exit 2.

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <iostream>

#include "core/error.h"
#include "model/base_model.h"
#include "store/safetensors.h"

namespace {

namespace model = ldmtune::model;
namespace store = ldmtune::store;

at::ScalarType dtype_of(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "float16") return at::kHalf;
  if (name == "bfloat16") return at::kBFloat16;
  ldmtune::fail_input("DTYPE: expected float32, float16 or bfloat16, found ", name);
}

store::TensorMap run(const model::BaseModel& base, const store::TensorMap& inputs, at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  const at::Tensor context = base.text_encoder->forward(inputs.at("input_ids"));
  const auto posterior = base.vae->encode(inputs.at("image").to(dtype));
  store::TensorMap outputs{
      {"context", context},
      {"prediction", base.unet->forward(inputs.at("sample").to(dtype), inputs.at("timestep"), context)},
      {"mean", posterior.mean},
      {"stddev", posterior.stddev},
      {"decoded", base.vae->decode(posterior.mean)}};
  for (auto& [name, tensor] : outputs) tensor = tensor.to(at::kFloat);
  return outputs;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 6) {
    ldmtune::fail_input("usage: model_base_tool FOLDER VARIANT DTYPE [INPUTS.safetensors OUTPUTS.safetensors]");
  }
  at::set_num_threads(1);
  model::BaseModelOptions options;
  options.variant = argv[2] == std::string("-") ? "" : argv[2];
  options.dtype = dtype_of(argv[3]);
  const model::BaseModel base = model::load_base_model(argv[1], options);
  const nlohmann::json summary = {{"sha256", base.sha256},
                                  {"unet", base.unet_sha256},
                                  {"text_encoder", base.text_encoder_sha256},
                                  {"vae", base.vae_sha256},
                                  {"tokenizer", base.tokenizer->sha256()},
                                  {"model_max_length", base.model_max_length},
                                  {"scaling_factor", base.vae->scaling_factor()}};
  std::cout << summary << std::endl;
  if (argc == 6) {
    store::write_safetensors(argv[5], run(base, store::read_safetensors(argv[4]).tensors, options.dtype));
  }
  return 0;
} catch (const ldmtune::Error& error) {
  std::cerr << error.what() << std::endl;
  return static_cast<int>(error.code());
}
