#pragma once
// The text that AUTOMATIC1111 keeps in a PNG under "parameters": its "PNG info" tab reads the settings back.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/generate.h"

namespace ldmtune::pipeline {

/// What drew the picture.
struct InfotextModel {
  std::string base_name, base_sha256;
  std::vector<std::pair<std::string, double>> hypernetworks, loras;  ///< names and strengths
  std::vector<std::string> embeddings;                               ///< names
  std::int64_t clip_skip = 1;
  bool prompt_weights = true;
};

/// width and height are the picture's.
std::string infotext(const GenerateRequest& request, const InfotextModel& model, std::int64_t width,
                     std::int64_t height);

}  // namespace ldmtune::pipeline
