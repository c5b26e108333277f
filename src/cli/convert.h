#pragma once
// What `export FILE` and `import FILE` share: a file of one program turned into another's.

#include <filesystem>
#include <string>

#include "adapt/init_from.h"
#include "cli/file_kind.h"
#include "core/config.h"

namespace ldmtune::cli {

struct Conversion {
  std::filesystem::path given, output;
  std::string format;            ///< a1111 | diffusers | kohya | ldm, whichever the kind of file has
  std::string name;              ///< of a hypernetwork or LoRA (empty: its own)
  std::string token;             ///< of several words the one to write; of one, its new name
  bool inference = false;        ///< hypernetworks: without dropout
  std::filesystem::path base{};  ///< a LoRA's, which names its layers
  BaseConfig base_options{};
  std::string variant;
  std::string dtype;  ///< of whole models (empty: as stored)
};

/// Writes conversion.output. Returns the options of a job that trains on from it. Errors: InputError naming the option
/// or file; a VAE alone, dreambooth's weights and unknown files are refused with what to do with them.
adapt::JobOptions convert(FileKind kind, const Conversion& conversion);

/// The layers of a base, without its weights where it is a folder.
std::vector<adapt::LoraSite> sites_of(const std::filesystem::path& base, const BaseConfig& config,
                                      const std::string& variant);

/// InputError unless this is a hypernetwork's format and its file name ends in .pt or .safetensors.
void check_hypernetwork_output(const std::string& format, const std::filesystem::path& output);
/// InputError unless the name ends so.
void expect_safetensors(const std::filesystem::path& output);

}  // namespace ldmtune::cli
