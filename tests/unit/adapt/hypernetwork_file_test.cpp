#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>

#include "core/error.h"
#include "small_network.h"
#include "store/files.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace ldmtune::adapt {
namespace {

using store::PyDict;
using store::PyList;
using store::PyTuple;
using store::PyValue;

class HypernetworkFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ldmtune-hypernetwork-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path path(const std::string& name = "network.pt") const { return folder_ / name; }

  std::filesystem::path write(const PyValue& value) const {
    store::write_torch_file(path(), value);
    return path();
  }
  /// The message with which the value is refused.
  std::string refusal(const PyValue& value) const {
    try {
      read_hypernetwork(write(value));
    } catch (const InputError& error) {
      EXPECT_EQ(std::string(error.what()).rfind(path().string() + ": ", 0), 0u) << error.what();
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

PyDict old_state_dict(bool old_names, at::ScalarType type = at::kFloat) {
  PyDict dict;
  const std::string first = old_names ? "linear1" : "linear.0", second = old_names ? "linear2" : "linear.1";
  dict.items.emplace_back(first + ".weight", normals({16, 8}, 1).to(type));
  dict.items.emplace_back(first + ".bias", normals({16}, 2).to(type));
  dict.items.emplace_back(second + ".weight", normals({8, 16}, 3).to(type));
  dict.items.emplace_back(second + ".bias", normals({8}, 4).to(type));
  return dict;
}

/// A file without any metadata, as the first ones were.
PyDict bare_file(const PyDict& k, const PyDict& v) {
  PyDict file;
  file.items.emplace_back(std::int64_t{8}, PyTuple{{k, v}});
  return file;
}
PyDict bare_file() { return bare_file(old_state_dict(false), old_state_dict(false)); }

PyDict with(PyDict file, const char* key, PyValue value) {
  file.items.emplace_back(key, std::move(value));
  return file;
}

PyList list(std::initializer_list<double> values) {
  PyList result;
  for (double value : values) result.items.emplace_back(value);
  return result;
}

TEST_F(HypernetworkFileTest, RoundTripKeepsEverything) {
  const SmallNetwork small(full_spec());
  small.network.export_file(*small.arena, path(), {"my style", 250, "0123456789", "base", false});
  const HypernetworkFile read = read_hypernetwork(path());
  EXPECT_EQ(read.name, "my style");
  EXPECT_EQ(read.step, 250);
  EXPECT_EQ(read.base_sha256, "0123456789");
  EXPECT_EQ(read.base_name, "base");
  EXPECT_TRUE(at::equal(read.arena->parameters(), small.arena->parameters()));
  const HypernetworkSpec& spec = read.network->spec();
  EXPECT_EQ(spec.layer_structure, full_spec().layer_structure);
  EXPECT_EQ(spec.activation, "silu");
  EXPECT_EQ(spec.weight_init, "Normal");
  EXPECT_TRUE(spec.layer_norm);
  EXPECT_TRUE(spec.activate_output);
  EXPECT_EQ(spec.dropout_structure, full_spec().dropout_structure);
  EXPECT_EQ(spec.widths, full_spec().widths);
}

TEST_F(HypernetworkFileTest, TheSameNetworkGivesTheSameBytes) {
  const SmallNetwork small(full_spec());
  std::filesystem::create_directories(folder_ / "other");
  small.network.export_file(*small.arena, path(), {});
  small.network.export_file(*small.arena, path("other/network.pt"), {});
  EXPECT_EQ(store::sha256_file(path()), store::sha256_file(path("other/network.pt")));
  EXPECT_EQ(read_hypernetwork(path()).name, "network") << "a network without a name is called as its file";
}

TEST_F(HypernetworkFileTest, HoldsWhatA1111Writes) {
  HypernetworkSpec spec;
  spec.widths = {8, 12};
  const SmallNetwork small(spec);
  small.network.export_file(*small.arena, path(), {"n", 1, "", "", false});
  const PyValue value = store::read_torch_file(path());
  const auto& file = *value.get_if<PyDict>();
  std::vector<std::string> keys;
  for (const auto& [key, item] : file.items)
    keys.push_back(key.get_if<std::string>() != nullptr ? *key.get_if<std::string>()
                                                        : cat(*key.get_if<std::int64_t>()));
  EXPECT_EQ(keys,
            (std::vector<std::string>{"8", "12", "step", "name", "layer_structure", "activation_func", "is_layer_norm",
                                      "weight_initialization", "sd_checkpoint", "sd_checkpoint_name", "activate_output",
                                      "use_dropout", "dropout_structure", "last_layer_dropout", "optional_info"}));
  EXPECT_EQ(*file.find("layer_structure")->get_if<PyList>()->items[1].get_if<double>(), 2.0);
  EXPECT_EQ(file.find("dropout_structure")->get_if<PyList>()->items.size(), 3u);
  EXPECT_EQ(*file.find("use_dropout")->get_if<bool>(), false);
  EXPECT_TRUE(file.find("sd_checkpoint")->is_none());
  EXPECT_NE(file.find(8)->get_if<PyTuple>()->items[1].get_if<PyDict>()->find("linear.1.bias"), nullptr);
}

TEST_F(HypernetworkFileTest, InferenceExportLeavesDropoutOutAndGivesTheSameOutputs) {
  const SmallNetwork small(full_spec());
  small.network.export_file(*small.arena, path(), {"n", 1, "", "", true});
  const HypernetworkFile read = read_hypernetwork(path());
  EXPECT_EQ(read.network->spec().dropout_structure, (std::vector<double>{0, 0, 0, 0}));
  const at::Tensor x = normals({2, 5, 12}, 7);
  EXPECT_TRUE(at::equal(read.network->apply(*read.arena, 12, "v", x, {}, 0),
                        small.network.apply(*small.arena, 12, "v", x, {}, 0)));
}

TEST_F(HypernetworkFileTest, MissingMetadataMeansA1111sDefaults) {
  const HypernetworkFile read = read_hypernetwork(write(bare_file()));
  EXPECT_EQ(read.network->spec().layer_structure, (std::vector<double>{1, 2, 1}));
  EXPECT_EQ(read.network->spec().activation, "linear");
  EXPECT_EQ(read.network->spec().weight_init, "Normal");
  EXPECT_TRUE(read.network->spec().activate_output);
  EXPECT_FALSE(read.network->spec().layer_norm);
  EXPECT_TRUE(read.network->spec().dropout_structure.empty());
  EXPECT_EQ(read.name, "network");
  EXPECT_EQ(read.step, 0);
}

TEST_F(HypernetworkFileTest, OldNamesAndHalfPrecisionAreRead) {
  const auto file = bare_file(old_state_dict(true, at::kHalf), old_state_dict(true, at::kBFloat16));
  const HypernetworkFile read = read_hypernetwork(write(file));
  EXPECT_TRUE(
      at::equal(read.arena->parameter("8.k.linear.0.weight"), normals({16, 8}, 1).to(at::kHalf).to(at::kFloat)));
  EXPECT_TRUE(at::equal(read.arena->parameter("8.v.linear.1.bias"), normals({8}, 4).to(at::kBFloat16).to(at::kFloat)));
}

TEST_F(HypernetworkFileTest, OldDropoutFlagsMeanTheOldStructure) {
  const auto structure_of = [&](std::int64_t stages, bool last) {
    HypernetworkSpec spec;
    spec.widths = {8};
    spec.layer_structure.assign(static_cast<std::size_t>(stages), 1.0);
    spec.dropout_structure.assign(static_cast<std::size_t>(stages), 0.0);
    for (std::int64_t i = 1; i < stages - (last ? 1 : 2); ++i)
      spec.dropout_structure[static_cast<std::size_t>(i)] = 0.3;
    const SmallNetwork small(spec);
    small.network.export_file(*small.arena, path(), {});
    PyValue value = store::read_torch_file(path());
    PyDict file = *value.get_if<PyDict>();
    std::erase_if(file.items, [](const auto& item) {
      const auto* key = item.first.template get_if<std::string>();
      return key != nullptr && (*key == "dropout_structure" || *key == "use_dropout" || *key == "last_layer_dropout");
    });
    file = with(with(file, "use_dropout", true), "last_layer_dropout", last);
    return read_hypernetwork(write(file)).network->spec().dropout_structure;
  };
  EXPECT_EQ(structure_of(5, true), (std::vector<double>{0, 0.3, 0.3, 0.3, 0}));
  EXPECT_EQ(structure_of(5, false), (std::vector<double>{0, 0.3, 0.3, 0, 0}));
  EXPECT_EQ(structure_of(3, false), (std::vector<double>{0, 0, 0}));
}

TEST_F(HypernetworkFileTest, RefusesOddSettings) {
  const auto contains = [&](const PyValue& file, const std::string& part) {
    const std::string message = refusal(file);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  contains(with(bare_file(), "layer_structure", list({1, 2})), "layer_structure: must start and end with 1");
  contains(with(bare_file(), "layer_structure", list({})), "layer_structure: expected 2 to");
  contains(with(bare_file(), "layer_structure", list({1, 3, 1})),
           "8.k.linear.0.weight: layer_structure asks for shape [24, 8]");
  contains(with(bare_file(), "layer_structure", list({1, 2, 2, 1})), "8.k.linear.1.weight: layer_structure asks for");
  contains(with(bare_file(), "layer_structure", list({1, 1e9, 1})), "layer_structure: ");
  contains(with(bare_file(), "layer_structure", "1, 2, 1"), "layer_structure: expected a list of numbers");
  contains(with(bare_file(), "activation_func", "torch.nn.ReLU"), "activation: unknown activation 'torch.nn.ReLU'");
  contains(with(bare_file(), "activation_func", "relu"), "8.k.linear.2.weight: missing");
  contains(with(bare_file(), "is_layer_norm", "yes"), "is_layer_norm: expected True or False");
  contains(with(bare_file(), "dropout_structure", list({0, 2, 0})), "dropout_structure: ");
  contains(with(bare_file(), "step", -5), "step: ");
  contains(with(bare_file(), "skip_connection", true), "MonkeyPatch");
}

TEST_F(HypernetworkFileTest, RefusesWeightsThatCannotBe) {
  const auto contains = [&](const PyValue& file, const std::string& part) {
    const std::string message = refusal(file);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const PyDict good = old_state_dict(false);
  PyDict broken = good;
  broken.items[2].second = at::full({8, 16}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  contains(bare_file(good, broken), "8.v.linear.1.weight holds NaN or infinite weights");
  broken = good;
  broken.items[0].second = at::zeros({16, 8}, at::kLong);
  contains(bare_file(broken, good), "8.k.linear.0.weight: expected floating-point numbers");
  broken = good;
  broken.items.emplace_back("linear.7.weight", at::zeros({1}));
  contains(bare_file(good, broken), "8.v.linear.7.weight: not expected");
  broken = good;
  broken.items.pop_back();
  contains(bare_file(good, broken), "8.v.linear.1.bias: missing");
  broken = good;
  broken.items.emplace_back("linear1.weight", at::zeros({16, 8}));
  contains(bare_file(broken, good), "8.k.linear.0.weight: there twice");
}

TEST_F(HypernetworkFileTest, RefusesWhatIsNoHypernetwork) {
  EXPECT_NE(refusal(PyList{}).find("expected a dictionary"), std::string::npos);
  EXPECT_NE(refusal(PyDict{}).find("no hypernetwork"), std::string::npos);
  EXPECT_NE(refusal(with({}, "string_to_param", PyDict{})).find("textual inversion"), std::string::npos);
  PyDict file;
  file.items.emplace_back(std::int64_t{8}, at::zeros({3}));
  EXPECT_NE(refusal(file).find("8: expected a pair of state dicts"), std::string::npos);
  PyDict lone;
  lone.items.emplace_back(std::int64_t{8}, PyTuple{{old_state_dict(false)}});
  EXPECT_NE(refusal(lone).find("8: expected a pair of state dicts"), std::string::npos);
  PyDict negative;
  negative.items.emplace_back(std::int64_t{-8}, PyTuple{{old_state_dict(false), old_state_dict(false)}});
  EXPECT_NE(refusal(negative).find("must be positive, found -8"), std::string::npos);
  EXPECT_THROW(read_hypernetwork(path("missing.pt")), InputError);
}

TEST_F(HypernetworkFileTest, SafetensorsHoldTheSame) {
  HypernetworkSpec spec;
  spec.layer_structure = {1, 2, 2, 1};
  spec.activation = "relu";
  spec.layer_norm = true;
  spec.dropout_structure = {0, 0.3, 0, 0};
  spec.widths = {8, 12};
  const Hypernetwork network(spec);
  const optim::Arena arena(network.parameters());
  network.initialize(arena, 5);
  for (const bool inference_only : {false, true}) {
    const Adapter::ExportInfo info{"small", 7, "abc", "base", inference_only};
    network.export_file(arena, path("a.pt"), info);
    network.export_file(arena, path("a.safetensors"), info);
    const HypernetworkFile pickled = read_hypernetwork(path("a.pt")), safe = read_hypernetwork(path("a.safetensors"));
    EXPECT_EQ(safe.network->spec().layer_structure, spec.layer_structure);
    EXPECT_EQ(safe.network->spec().dropout_structure, pickled.network->spec().dropout_structure);
    EXPECT_EQ(safe.network->spec().activation, "relu");
    EXPECT_TRUE(safe.network->spec().layer_norm);
    EXPECT_EQ(safe.name + safe.base_sha256 + safe.base_name, "smallabcbase");
    EXPECT_EQ(safe.step, 7);
    EXPECT_TRUE(at::equal(safe.arena->parameters(), pickled.arena->parameters()));
  }
}

TEST_F(HypernetworkFileTest, SafetensorsThatAreNoneAreRefused) {
  const auto refusal_of = [&](const store::TensorMap& tensors, const store::Metadata& metadata) {
    store::write_safetensors(path("a.safetensors"), tensors, metadata);
    try {
      read_hypernetwork(path("a.safetensors"));
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(refusal_of({{"lora_unet.alpha", at::ones({1})}}, {}), "no hypernetwork"));
  EXPECT_TRUE(has(refusal_of({{"8.q.linear.0.weight", at::ones({1})}}, {}), "8.q.linear.0.weight"));
  EXPECT_TRUE(has(refusal_of({}, {}), "no hypernetwork"));
  const store::TensorMap one{{"8.k.linear.0.weight", at::ones({16, 8})}};
  EXPECT_TRUE(has(refusal_of(one, {{"layer_structure", "1,2"}}), "layer_structure: expected JSON"));
  EXPECT_TRUE(has(refusal_of(one, {{"layer_structure", "[[1]]"}}), "list of numbers"));
  EXPECT_TRUE(has(refusal_of(one, {{"name", "{}"}}), "found an object"));
  EXPECT_TRUE(has(refusal_of(one, {}), "8.k.linear.0.bias: missing"));
}

}  // namespace
}  // namespace ldmtune::adapt
