#include "store/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "store/file_io.h"
#include "store/files.h"
#include "store/safetensors_header.h"

namespace ldmtune::store {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLargestHeader = 100'000'000;

/// An open safetensors file with its checked header; `data` is where the tensors' bytes start.
struct OpenFile {
  InputFile input;
  SafetensorsHeader header;
  std::uint64_t data = 0;
};

OpenFile open_safetensors(const fs::path& file) {
  OpenFile open{InputFile(file), {}, 0};
  if (open.input.size() < 8) {
    fail_input(file, ": expected a safetensors file, found ", open.input.size(), " bytes. Is it the right file?");
  }
  const std::string prefix = open.input.read_string(0, 8);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(prefix[static_cast<std::size_t>(i)]);
  if (length > kLargestHeader || length > open.input.size() - 8) {
    fail_input(file, ": expected a header of at most ", std::min(kLargestHeader, open.input.size() - 8),
               " bytes, found a length of ", length, ". The file is cut short or no safetensors file.");
  }
  open.data = 8 + length;
  open.header = parse_safetensors_header(file, open.input.read_string(8, length), open.input.size() - open.data);
  return open;
}

at::Tensor read_tensor(const OpenFile& open, const SafetensorsEntry& entry) {
  at::Tensor tensor = at::empty(entry.info.shape, at::TensorOptions().dtype(entry.info.dtype));
  const std::span<std::byte> bytes(static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes());
  open.input.read(open.data + entry.begin, bytes);
  if (entry.info.dtype == at::kBool) {
    const auto bad = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; });
    if (bad != bytes.end()) {
      fail_input(open.input.path(), ": tensor '", printable(entry.info.name), "': expected booleans of 0 or 1, found ",
                 static_cast<int>(*bad), ".");
    }
  }
  return tensor;
}

/// The first of `names` that is in the folder.
std::optional<fs::path> find_file(const fs::path& folder, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return std::nullopt;
}

std::string shard_name(const fs::path& index, const nlohmann::json& value) {
  const std::string name = value.is_string() ? value.get<std::string>() : "";
  if (name.empty() || name.find('\0') != std::string::npos || fs::path(name).filename() != name || name == "..") {
    fail_input(index, ": expected weight_map to name files of its own folder, found ", printable(value.dump()), ".");
  }
  return name;
}

TensorMap read_shards(const fs::path& index) {
  const nlohmann::json json = read_json(index);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    fail_input(index, ": expected an object with weight_map {tensor: file}. Fetch or write the file again.");
  }
  std::map<std::string, std::vector<std::string>> names_of_shard;
  for (const auto& [name, shard] : json["weight_map"].items()) names_of_shard[shard_name(index, shard)].push_back(name);
  TensorMap tensors;
  for (const auto& [shard, names] : names_of_shard) {
    TensorMap part = read_safetensors(index.parent_path() / shard).tensors;
    for (const std::string& name : names) {
      if (!part.count(name)) {
        fail_input(index.parent_path() / shard, ": expected tensor '", printable(name), "' as ", index.filename(),
                   " says, found none. Fetch the shards again.");
      }
    }
    if (part.size() != names.size()) {
      fail_input(index.parent_path() / shard, ": expected the ", names.size(), " tensors of ", index.filename(),
                 ", found ", part.size(), ". Fetch the shards again.");
    }
    tensors.merge(part);
  }
  return tensors;
}

std::optional<TensorMap> read_variant(const fs::path& folder, const std::string& stem, const std::string& variant) {
  const std::string dotted = variant.empty() ? "" : "." + variant;
  if (const auto file = find_file(folder, {stem + dotted + ".safetensors"})) return read_safetensors(*file).tensors;
  const auto index =
      find_file(folder, {stem + ".safetensors.index" + dotted + ".json", stem + dotted + ".safetensors.index.json",
                         stem + ".safetensors" + dotted + ".index.json"});
  if (index) return read_shards(*index);
  return std::nullopt;
}

/// "found: a.fp16.safetensors": what a person may have meant.
std::string weights_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    for (const char* ending : {".safetensors", ".bin", ".ckpt", ".index.json"}) {
      if (name.ends_with(ending)) names.insert(printable(name));
    }
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "no weights" : text;
}

std::string header_json(const std::vector<std::pair<std::string, at::Tensor>>& ordered, const Metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : ordered) {
    header[name] = {{"dtype", safetensors_dtype(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + tensor.nbytes()}}};
    offset += tensor.nbytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

std::string little_endian(std::uint64_t value) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

}  // namespace

SafetensorsFile read_safetensors(const fs::path& file) {
  const OpenFile open = open_safetensors(file);
  SafetensorsFile result;
  for (const SafetensorsEntry& entry : open.header.entries)
    result.tensors.emplace(entry.info.name, read_tensor(open, entry));
  result.metadata = open.header.metadata;
  return result;
}

std::vector<TensorInfo> read_safetensors_header(const fs::path& file, Metadata* metadata) {
  OpenFile open = open_safetensors(file);
  std::vector<TensorInfo> infos;
  for (SafetensorsEntry& entry : open.header.entries) infos.push_back(std::move(entry.info));
  if (metadata) *metadata = std::move(open.header.metadata);
  return infos;
}

TensorMap read_sharded_safetensors(const fs::path& folder, const std::string& stem, const std::string& variant) {
  if (!fs::is_directory(folder))
    fail_input(folder, ": expected a folder with ", stem, ".safetensors, found no folder.");
  if (auto tensors = read_variant(folder, stem, variant)) return std::move(*tensors);
  if (!variant.empty()) {
    if (auto tensors = read_variant(folder, stem, "")) {
      LDMTUNE_LOG(warning) << folder << " has no " << stem << " of variant " << variant << ": the plain one is read";
      return std::move(*tensors);
    }
  }
  fail_input(folder, ": expected ", stem, variant.empty() ? "" : "[." + variant + "]",
             ".safetensors or its index.json with shards, found ", weights_in(folder),
             ". Convert other formats to safetensors; give another variant with --variant.");
}

void write_safetensors(const fs::path& file, const TensorMap& tensors, const Metadata& metadata) {
  std::vector<std::pair<std::string, at::Tensor>> ordered(tensors.begin(), tensors.end());
  for (auto& [name, tensor] : ordered) {
    if (safetensors_dtype(tensor.scalar_type()).empty()) {
      fail(file, ": tensor '", name, "': safetensors has no dtype for ", c10::toString(tensor.scalar_type()), ".");
    }
  }
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return safetensors_dtype_order(a.second.scalar_type()) > safetensors_dtype_order(b.second.scalar_type());
  });
  const std::string header = header_json(ordered, metadata);
  write_atomically(file, [&](const fs::path& temporary) {
    OutputFile out(temporary);
    out.append(little_endian(header.size()) + header);
    for (const auto& [name, tensor] : ordered) {
      const at::Tensor plain = tensor.detach().cpu().contiguous();
      out.append({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
    }
  });
}

std::string sha256_safetensors_data(const fs::path& file) { return sha256_file(file, open_safetensors(file).data); }

void check_finite(const TensorMap& tensors, const fs::path& file) {
  for (const auto& [name, tensor] : tensors) {
    // ATen compares no 8-bit floats.
    const at::Tensor values = tensor.element_size() == 1 ? tensor.to(at::kFloat) : tensor;
    if (tensor.is_floating_point() && !at::isfinite(values).all().item<bool>()) {
      fail_input(file, ": tensor '", printable(name), "': expected finite values, found a NaN or an infinity. ",
                 "The weights are damaged or come from a run that diverged.");
    }
  }
}

}  // namespace ldmtune::store
