#include "cli/inspect_file.h"

#include <fstream>
#include <map>

#include "cli/inspect_kinds.h"
#include "core/options.h"
#include "store/files.h"
#include "store/image.h"
#include "store/latent_part.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostListed = 12;
constexpr std::size_t kLongestValue = 160;  // characters; a LoRA's settings name every layer

std::string first_bytes(const fs::path& file) {
  std::string bytes(16, '\0');
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail_input(file.string(), ": cannot be opened for reading");
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  return bytes;
}

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

std::string describe_safetensors(const fs::path& file) {
  store::Metadata metadata;
  const auto tensors = store::read_safetensors_header(file, &metadata);
  const FileKind kind = kind_of(file);
  // A checkpoint's bare parameters do not say how the network is built.
  const bool is_bare = kind == FileKind::hypernetwork && metadata.count("layer_structure") == 0;
  if (kind != FileKind::other && !is_bare) return describe_kind(kind, file);
  std::map<std::string, std::int64_t> elements;
  for (const store::TensorInfo& tensor : tensors)
    elements[c10::toString(tensor.dtype)] += c10::multiply_integers(tensor.shape);
  std::string text = "safetensors\n" + fact("tensors", tensors.size());
  for (const auto& [dtype, number] : elements) text += fact("elements in " + dtype, number);
  for (const auto& [key, value] : metadata) {
    std::string shown = value;
    if (shown.size() > kLongestValue) shown.erase(kLongestValue).append(" ...");
    text += fact("metadata " + key, shown);
  }
  for (std::size_t i = 0; i < std::min(tensors.size(), kMostListed); ++i) {
    text += cat("    ", tensors[i].name, " ", c10::toString(tensors[i].dtype), " ", shape_text(tensors[i].shape), "\n");
  }
  if (tensors.size() > kMostListed) text += cat("    ... and ", tensors.size() - kMostListed, " more\n");
  return text + fact("sha256", store::sha256_file(file));
}

std::string value_text(const store::PyValue& value) {
  if (value.is_none()) return "None";
  if (const auto* flag = value.get_if<bool>()) return *flag ? "True" : "False";
  if (const auto* number = value.get_if<std::int64_t>()) return std::to_string(*number);
  if (const auto* number = value.get_if<double>()) return format_number(*number);
  if (const auto* text = value.get_if<std::string>()) return "\"" + *text + "\"";
  if (const auto* tensor = value.get_if<at::Tensor>()) {
    return cat("tensor ", c10::toString(tensor->scalar_type()), " ", shape_text(tensor->sizes()));
  }
  if (const auto* list = value.get_if<store::PyList>()) return cat("list of ", list->items.size());
  if (const auto* tuple = value.get_if<store::PyTuple>()) return cat("tuple of ", tuple->items.size());
  return cat("dict of ", value.get_if<store::PyDict>()->items.size());
}

std::string describe_torch(const fs::path& file) {
  const FileKind kind = kind_of(file);
  if (kind != FileKind::other) return describe_kind(kind, file);
  const store::PyValue value = store::read_torch_file(file);
  const auto* dict = value.get_if<store::PyDict>();
  std::string text = "torch file\n";
  if (dict == nullptr) text += fact("holds", value_text(value));
  const std::size_t items = dict == nullptr ? 0 : dict->items.size();
  for (std::size_t i = 0; i < std::min(items, kMostListed); ++i) {
    text += cat("    ", value_text(dict->items[i].first), ": ", value_text(dict->items[i].second), "\n");
  }
  if (items > kMostListed) text += cat("    ... and ", items - kMostListed, " more\n");
  return text + fact("sha256", store::sha256_file(file));
}

std::string describe_part(const fs::path& file) {
  const store::LatentPart part(file);
  std::string text = "HDF5 part of a latent dataset\n";
  for (const store::BucketSize& bucket : part.buckets()) {
    const auto rows = static_cast<std::int64_t>(part.records(bucket).size());
    for (std::int64_t row = 0; row < rows; ++row) part.read_latent(bucket, row);
    text += fact("bucket " + bucket.name(), cat(rows, " samples, checksums hold"));
  }
  return text + fact("sha256", store::sha256_file(file));
}

std::string describe_image(const fs::path& file) {
  const at::Tensor image = store::read_image(file);
  return cat("image of ", image.size(1), "x", image.size(0), " pixels\n");
}

}  // namespace

std::string describe_file(const fs::path& file) {
  const std::string bytes = first_bytes(file);
  const auto starts = [&](const std::string& magic) { return bytes.compare(0, magic.size(), magic) == 0; };
  if (file.extension() == ".safetensors") return describe_safetensors(file);
  if (starts("\x89HDF\r\n\x1a\n")) return describe_part(file);
  if (starts("PK\x03\x04") || starts("\x80") || file.extension() == ".pt" || file.extension() == ".ckpt")
    return describe_torch(file);
  if (starts("\x89PNG") || starts("\xff\xd8\xff") || starts("RIFF")) return describe_image(file);
  if (bytes.size() > 8 && bytes[8] == '{') return describe_safetensors(file);
  fail_input(file.string(), ": expected a safetensors, torch (.pt), HDF5 or image file, found none of them");
}

}  // namespace ldmtune::cli
