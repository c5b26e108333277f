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
  std::string hypernetwork_name;  ///< empty: none
  double hypernetwork_strength = 1.0;
  std::vector<std::pair<std::string, double>> loras;  ///< names and strengths
};

/// width and height are the picture's.
std::string infotext(const GenerateRequest& request, const InfotextModel& model, std::int64_t width,
                     std::int64_t height);

}  // namespace ldmtune::pipeline
