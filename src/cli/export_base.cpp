#include "cli/export_base.h"

#include <vector>

#include "cli/convert.h"
#include "core/error.h"
#include "model/base_model.h"
#include "pipeline/dataset_writer.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;

/// Folder of "tokenizer" or "tokenizer_2".
fs::path tokenizer_of(const fs::path& base, const BaseConfig& config, const std::string& name) {
  std::error_code ignored;
  if (config.tokenizer.empty() && fs::is_directory(base / name, ignored)) return base / name;
  if (config.tokenizer.empty()) {
    fail_input(base.string(),
               ": a single file holds no tokenizer; give --base.tokenizer FOLDER, one with vocab.json "
               "and merges.txt, or the folder of a base of the same family");
  }
  if (fs::is_directory(config.tokenizer / name, ignored)) return config.tokenizer / name;
  if (name == "tokenizer" && fs::is_directory(config.tokenizer, ignored)) return config.tokenizer;
  fail_input("option base.tokenizer: ", (config.tokenizer / name).string(), " is no folder; expected ", name,
             "'s files");
}

}  // namespace

at::ScalarType parse_stored_type(const std::string& name) {
  if (name.empty()) return at::ScalarType::Undefined;
  if (name == "fp32") return at::kFloat;
  if (name == "fp16") return at::kHalf;
  if (name == "bf16") return at::kBFloat16;
  fail_input("option dtype: expected fp32, fp16 or bf16, found '", name, "'");
}

bool is_base_folder(const fs::path& given) {
  std::error_code ignored;
  return fs::is_regular_file(given / "model_index.json", ignored);
}

void check_output(const fs::path& output) {
  if (output.empty()) fail_input("option output is missing: give --output FILE");
  if (fs::exists(output)) {
    fail_input("option output: ", output.string(), " is there already and is not written over");
  }
  const fs::path folder = output.has_parent_path() ? output.parent_path() : ".";
  if (!fs::is_directory(folder)) fail_input("option output: folder ", folder.string(), " does not exist");
}

namespace {

/// What a diffusers folder holds besides networks, tokenizers and schedule: ["library", "Class"] in model_index.json.
std::vector<std::string> other_components(const model::BaseParts& parts) {
  std::vector<std::string> names;
  for (const auto& [name, value] : parts.model_index.items()) {
    const bool is_component = value.is_array() && value.size() == 2 && value[0].is_string();
    const bool is_written = parts.networks.contains(name) || name.starts_with("tokenizer") || name == "scheduler";
    if (is_component && !is_written) names.push_back(name);
  }
  return names;
}

void write_folder(model::BaseParts parts, const fs::path& base, const BaseConfig& config, at::ScalarType type,
                  const fs::path& output) {
  const auto tokenizer = [&](const std::string& name) { return tokenizer_of(base, config, name); };
  tokenizer("tokenizer");  // before anything is written
  if (parts.networks.contains("text_encoder_2")) tokenizer("tokenizer_2");
  std::vector<std::string> copied;
  for (const std::string& name : other_components(parts)) {
    if (fs::is_directory(base / name)) {
      copied.push_back(name);
    } else {
      parts.model_index[name] = {nullptr, nullptr};
    }
  }
  pipeline::PartialFolder partial(output);
  model::write_base_folder(partial.path(), parts, type, tokenizer);
  for (const std::string& name : copied) {
    fs::copy(base / name, partial.path() / name, fs::copy_options::recursive);  // what links point to: caches are links
  }
  partial.commit();
}

}  // namespace

void write_base(const model::BaseParts& parts, const fs::path& base, const BaseConfig& config,
                const std::string& format, const std::string& dtype, const fs::path& output) {
  const at::ScalarType type = parse_stored_type(dtype);
  if (format == "ldm") {
    expect_safetensors(output);
    model::write_single_file(output, parts, type);
  } else if (format == "diffusers") {
    write_folder(parts, base, config, type, output);
  } else {
    fail_input("option format: expected ldm (one .safetensors file) or diffusers (a folder) for a whole model, found '",
               format, "'");
  }
}

void export_base(const fs::path& base, const BaseConfig& config, const std::string& variant, const std::string& format,
                 const std::string& dtype, const fs::path& output) {
  parse_stored_type(dtype);  // before anything is read
  write_base(model::read_base_parts(base, model::options_of(config, variant)), base, config, format, dtype, output);
}

}  // namespace ldmtune::cli
