// What tests/parity/test_files.py runs: reads a file with ours and writes what it found where Python can compare.
// Exit code 2 on bad input, as the program itself.

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "store/files.h"
#include "store/hdf5_writer.h"
#include "store/image.h"
#include "store/latent_part.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace {

using namespace ldmtune;
using nlohmann::json;

/// A value as JSON; tensors are put aside under names t0, t1 ... in the order met.
json describe(const store::PyValue& value, store::TensorMap& tensors) {
  if (value.is_none()) return {{"none", true}};
  if (const auto* boolean = value.get_if<bool>()) return {{"bool", *boolean}};
  if (const auto* integer = value.get_if<std::int64_t>()) return {{"int", *integer}};
  if (const auto* real = value.get_if<double>()) return {{"float", *real}};
  if (const auto* text = value.get_if<std::string>()) return {{"str", *text}};
  if (const auto* tensor = value.get_if<at::Tensor>()) {
    const std::string name = cat("t", tensors.size());
    tensors[name] = *tensor;
    return {{"tensor", name}};
  }
  json items = json::array();
  if (const auto* list = value.get_if<store::PyList>()) {
    for (const auto& item : list->items) items.push_back(describe(item, tensors));
    return {{"list", items}};
  }
  if (const auto* tuple = value.get_if<store::PyTuple>()) {
    for (const auto& item : tuple->items) items.push_back(describe(item, tensors));
    return {{"tuple", items}};
  }
  const auto& dict = *value.get_if<store::PyDict>();
  for (const auto& [key, item] : dict.items) {
    items.push_back(json::array({describe(key, tensors), describe(item, tensors)}));
  }
  return {{dict.ordered ? "ordered_dict" : "dict", items}};
}

/// The reverse of describe().
store::PyValue compose(const json& description, const store::TensorMap& tensors) {
  const std::string kind = description.begin().key();
  const json& content = description.begin().value();
  if (kind == "none") return {};
  if (kind == "bool") return content.get<bool>();
  if (kind == "int") return content.get<std::int64_t>();
  if (kind == "float") return content.get<double>();
  if (kind == "str") return content.get<std::string>();
  if (kind == "tensor") return tensors.at(content.get<std::string>());
  store::PyList list;
  store::PyDict dict;
  dict.ordered = kind == "ordered_dict";
  for (const json& item : content) {
    if (kind == "list" || kind == "tuple") {
      list.items.push_back(compose(item, tensors));
    } else {
      dict.items.emplace_back(compose(item[0], tensors), compose(item[1], tensors));
    }
  }
  if (kind == "list") return list;
  if (kind == "tuple") return store::PyTuple{list.items};
  return dict;
}

/// Two buckets with values that Python can compute too: mean[i] = i / 8, std[i] = 1 / (1 + i).
void write_example_part(const std::filesystem::path& file) {
  std::map<store::BucketSize, store::BucketRows> buckets;
  std::uint64_t next_id = 7;
  for (const store::BucketSize size : {store::BucketSize{64, 64}, store::BucketSize{96, 32}}) {
    store::BucketRows rows;
    for (int i = 0; i < 3; ++i) {
      store::SampleRecord record;
      record.sample_id = next_id++;
      record.image_sha256.fill(static_cast<std::uint8_t>(record.sample_id));
      record.variant = static_cast<std::uint8_t>(i % 2);
      record.original_size = {size.width + i, size.height};
      record.crop = {i, 0, size.width, size.height};
      record.split = static_cast<store::Split>(i);
      rows.records.push_back(record);
    }
    const std::vector<std::int64_t> shape{3, 4, size.height / 4, size.width / 4};
    const at::Tensor index = at::arange(3 * 4 * shape[2] * shape[3], at::kDouble).reshape(shape);
    rows.latent_mean = (index / 8).to(at::kHalf);
    rows.latent_std = (1 / (1 + index)).to(at::kHalf);
    if (size.width == 96) rows.mask = (index.select(1, 0).fmod(251)).to(at::kByte);
    buckets.emplace(size, std::move(rows));
  }
  store::write_latent_part(file, buckets);
}

void write_example_trace(const std::filesystem::path& file) {
  store::Hdf5Writer writer(file);
  writer.write("/step_000001/gradient/768.k.linear.0.weight", at::arange(6, at::kFloat).reshape({2, 3}));
  writer.write("/step_000001/micro_0000/timestep", at::arange(3, at::kLong));
  writer.write("/step_000001/context", at::full({2}, 1.5, at::kBFloat16));
  writer.write("/step_000001/half", at::full({2}, 0.1, at::kHalf));
  writer.write("/step_000001/scalar", at::scalar_tensor(2.5, at::kDouble));
  writer.attribute("/step_000001", "loss", 0.25);
  writer.attribute("/step_000001", "learning_rate", std::vector<double>{1e-4, 2e-5});
  writer.attribute("/", "format", std::string("ldmtune-trace"));
  writer.attribute("/", "version", std::int64_t{1});
  writer.close();
}

void read_part(const std::filesystem::path& file) {
  const store::LatentPart part(file);
  for (const store::BucketSize& size : part.buckets()) {
    const auto rows = static_cast<std::int64_t>(part.records(size).size());
    for (std::int64_t row = 0; row < rows; ++row) {
      std::cout << size.name() << " " << part.records(size)[static_cast<std::size_t>(row)].sample_id << " "
                << store::sha256_tensors_exact({{"latent", part.read_latent(size, row)}}) << "\n";
    }
  }
}

int run(const std::vector<std::string>& arguments) {
  const std::string& command = arguments.at(0);
  if (command == "copy_safetensors") {
    const store::SafetensorsFile file = store::read_safetensors(arguments.at(1));
    store::write_safetensors(arguments.at(2), file.tensors, file.metadata);
  } else if (command == "read_torch") {
    store::TensorMap tensors;
    const json description = describe(store::read_torch_file(arguments.at(1)), tensors);
    store::write_json(arguments.at(2), description);
    store::write_safetensors(arguments.at(3), tensors);
  } else if (command == "write_torch") {
    const store::TensorMap tensors = store::read_safetensors(arguments.at(2)).tensors;
    store::write_torch_file(arguments.at(3), compose(store::read_json(arguments.at(1)), tensors));
  } else if (command == "read_image") {
    store::write_safetensors(arguments.at(2), {{"image", store::read_image(arguments.at(1))}});
  } else if (command == "write_png") {
    const at::Tensor image = store::read_safetensors(arguments.at(1)).tensors.at("image");
    store::write_png(arguments.at(2), image, {{"parameters", "a cat, Steps: 20"}, {"title", "Kätzchen"}});
  } else if (command == "write_part") {
    write_example_part(arguments.at(1));
  } else if (command == "read_part") {
    read_part(arguments.at(1));
  } else if (command == "write_trace") {
    write_example_trace(arguments.at(1));
  } else {
    fail_input("unknown command ", command);
  }
  return 0;
}

}  // namespace

int main(int count, char** values) {
  try {
    return run({values + 1, values + count});
  } catch (const ldmtune::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
