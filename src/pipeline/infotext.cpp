#include "pipeline/infotext.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::pipeline {
namespace {

/// Values that hold the format's separators are quoted as JSON strings.
std::string quoted(const std::string& value) {
  if (value.find_first_of(",:\n") == std::string::npos) return value;
  return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string sampler_name(const std::string& sampler) {
  if (sampler == "ddim") return "DDIM";
  if (sampler == "euler") return "Euler";
  return sampler;
}

/// "style: 0.8, other: 1".
std::string lora_list(const InfotextModel& model) {
  std::string list;
  for (const auto& [name, strength] : model.loras)
    list += (list.empty() ? "" : ", ") + name + ": " + format_number(strength);
  return list;
}

}  // namespace

std::string infotext(const GenerateRequest& request, const InfotextModel& model, std::int64_t width,
                     std::int64_t height) {
  std::string text = request.prompt + "\n";
  if (!request.negative_prompt.empty()) text += "Negative prompt: " + request.negative_prompt + "\n";
  text += cat("Steps: ", request.num_inference_steps, ", Sampler: ", sampler_name(request.sampler),
              ", CFG scale: ", format_number(request.guidance_scale), ", Seed: ", request.seed,
              ", Image index: ", request.index, ", Size: ", width, "x", height);
  constexpr std::size_t kShortHash = 10;
  text += ", Model hash: " + model.base_sha256.substr(0, kShortHash) + ", Model: " + quoted(model.base_name);
  if (!model.hypernetwork_name.empty()) {
    text += ", Hypernet: " + quoted(model.hypernetwork_name) +
            ", Hypernet strength: " + format_number(model.hypernetwork_strength);
  }
  const std::string loras = lora_list(model);
  if (!loras.empty()) text += ", Lora: " + quoted(loras);
  return text + ", Version: ldmtune";
}

}  // namespace ldmtune::pipeline
