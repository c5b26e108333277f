// Runs hypernetworks of ldmtune on stored inputs, for test_hypernetwork.py to compare with an independent torch module.
//
//   adapt_hypernetwork_tool forward FOLDER   for each NAME.pt, from NAME.inputs.safetensors to NAME.outputs.safetensors
//   adapt_hypernetwork_tool create FOLDER    for each NAME.json (HypernetworkSpec's fields, seed), a fresh network to
//   NAME.pt adapt_hypernetwork_tool rewrite FILE OUT [inference]   reads a .pt and writes it again
//
// Inputs: x.<width>.<role> (B, T, width) and cotangent.<width>.<role> of its shape, optionally strength f32 (1).
// Outputs: y.<width>.<role>, gradient.x.<width>.<role> and gradient.<parameter>, of sum(y * cotangent).

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "adapt/hypernetwork.h"
#include "core/error.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::adapt {

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_with(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == extension) files.push_back(entry.path());
  return files;
}

void forward(const fs::path& file) {
  const HypernetworkFile read = read_hypernetwork(file);
  const auto inputs = store::read_safetensors(fs::path(file).replace_extension(".inputs.safetensors")).tensors;
  ForwardContext context;
  if (inputs.count("strength") > 0) context.strength = inputs.at("strength").item<float>();
  store::TensorMap outputs;
  for (const std::int64_t width : read.network->spec().widths)
    for (const std::string role : {"k", "v"}) {
      const std::string site = std::to_string(width) + "." + role;
      const at::Tensor x = inputs.at("x." + site).requires_grad_();
      const at::Tensor y = read.network->apply(*read.arena, width, role, x, context, 0);
      y.backward(inputs.at("cotangent." + site));
      outputs["y." + site] = y.detach();
      outputs["gradient.x." + site] = x.grad();
    }
  for (const auto& [name, gradient] : read.arena->gradient_views()) outputs["gradient." + name] = gradient.contiguous();
  store::write_safetensors(fs::path(file).replace_extension(".outputs.safetensors"), outputs);
}

void create(const fs::path& file) {
  const auto json = store::read_json(file);
  HypernetworkSpec spec;
  spec.layer_structure = json.at("layer_structure").get<std::vector<double>>();
  spec.activation = json.at("activation");
  spec.weight_init = json.at("weight_init");
  spec.layer_norm = json.at("layer_norm");
  spec.layer_norm_init = json.at("layer_norm_init");
  spec.activate_output = json.at("activate_output");
  spec.dropout_structure = json.at("dropout_structure").get<std::vector<double>>();
  spec.widths = json.at("widths").get<std::set<std::int64_t>>();
  const Hypernetwork network(spec);
  const optim::Arena arena(network.parameters());
  network.initialize(arena, json.at("seed"));
  network.export_file(arena, fs::path(file).replace_extension(".pt"), {"created", 17, "abc123", "the base", false});
}

void rewrite(const fs::path& file, const fs::path& out, bool inference_only) {
  const HypernetworkFile read = read_hypernetwork(file);
  read.network->export_file(*read.arena, out, {read.name, read.step, read.base_sha256, read.base_name, inference_only});
}

int run(const std::vector<std::string>& arguments) {
  at::set_num_threads(1);
  if (arguments.size() == 2 && arguments[0] == "forward") {
    for (const fs::path& file : files_with(arguments[1], ".pt")) forward(file);
  } else if (arguments.size() == 2 && arguments[0] == "create") {
    for (const fs::path& file : files_with(arguments[1], ".json")) create(file);
  } else if (arguments.size() >= 3 && arguments[0] == "rewrite") {
    rewrite(arguments[1], arguments[2], arguments.size() == 4 && arguments[3] == "inference");
  } else {
    fail_input("usage: adapt_hypernetwork_tool forward|create FOLDER, or rewrite FILE OUT [inference]");
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
