#pragma once
// The text that AUTOMATIC1111 keeps in a PNG under "parameters": its "PNG info" tab reads the settings back.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/generate.h"

namespace ldmtune::pipeline {

/// A file that drew along: `hash` is the beginning of a sha256, as A1111 shortens it (hypernetworks 10 digits of the
/// file's, LoRAs 12 of their tensors', embeddings 12 of the file's).
struct InfotextFile {
  std::string name;
  double strength = 1;
  std::string hash;
};

/// What drew the picture.
struct InfotextModel {
  std::string base_name;
  std::string base_hash;  ///< 10 digits: of a single-file base's sha256, as A1111 has it, else of the base's own hash
  std::vector<InfotextFile> hypernetworks, loras;
  std::vector<InfotextFile> embeddings;  ///< name: the word; those that neither prompt holds are not written
  std::int64_t clip_skip = 1;
  bool prompt_weights = true;
  bool zero_terminal_snr = false;
};

/// width and height are the picture's. LoRAs, and hypernetworks where there are several, stand as tags behind the
/// prompt, as A1111's users write them: <lora:NAME:STRENGTH>.
std::string infotext(const GenerateRequest& request, const InfotextModel& model, std::int64_t width,
                     std::int64_t height);

}  // namespace ldmtune::pipeline
