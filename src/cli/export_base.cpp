#include "cli/export_base.h"

#include "cli/export_model.h"
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
  return name.empty() ? at::ScalarType::Undefined : parse_weight_type(name);
}

bool is_base(const fs::path& given, const std::string& format) {
  std::error_code ignored;
  if (fs::is_regular_file(given / "model_index.json", ignored)) return true;
  return fs::is_regular_file(given, ignored) && (format == "ldm" || format == "diffusers");
}

void write_base(const model::BaseParts& parts, const fs::path& base, const BaseConfig& config,
                const std::string& format, const std::string& dtype, const fs::path& output) {
  const at::ScalarType type = parse_stored_type(dtype);
  if (format == "ldm") {
    if (output.extension() != ".safetensors") {
      fail_input("option output: expected a file name ending in .safetensors, found ", output.string());
    }
    model::write_single_file(output, parts, type);
    return;
  }
  if (format != "diffusers") {
    fail_input("option format: expected ldm (one .safetensors file) or diffusers (a folder) for a whole model, found '",
               format, "'");
  }
  const auto tokenizer = [&](const std::string& name) { return tokenizer_of(base, config, name); };
  tokenizer("tokenizer");  // before anything is written
  if (parts.networks.contains("text_encoder_2")) tokenizer("tokenizer_2");
  pipeline::PartialFolder partial(output);
  model::write_base_folder(partial.path(), parts, type, tokenizer);
  partial.commit();
}

void export_base(const fs::path& base, const BaseConfig& config, const std::string& format, const std::string& dtype,
                 const fs::path& output) {
  write_base(model::read_base_parts(base, model::options_of(config, "")), base, config, format, dtype, output);
}

}  // namespace ldmtune::cli
