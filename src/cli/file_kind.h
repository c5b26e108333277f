#pragma once
// Telling what a file of the Stable Diffusion world is, from names alone: no tensor is judged.

#include <filesystem>
#include <string>

namespace ldmtune::cli {

enum class FileKind {
  hypernetwork,
  embedding,  ///< textual inversion
  lora,       ///< also its kin that read_lora refuses by name
  base,       ///< a whole model in the LDM layout, or what looks like one (SD 3, Flux: its reader says so)
  vae,        ///< an autoencoder alone
  weights,    ///< what dreambooth trained, named "<component>.<key>"
  other
};

/// Of a .safetensors by its header, of a torch file by its keys. Errors: InputError naming the file if it is damaged or
/// neither of the two.
FileKind kind_of(const std::filesystem::path& file);

/// "a hypernetwork", "a LoRA" ...
std::string name_of(FileKind kind);

}  // namespace ldmtune::cli
