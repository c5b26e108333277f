#include "pipeline/infotext.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/options.h"

namespace ldmtune::pipeline {
namespace {

/// Values that hold the format's separators are quoted as JSON strings.
std::string quote(const std::string& value) {
  if (value.find_first_of(",:\n") == std::string::npos) return value;
  return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string sampler_name(const std::string& sampler) {
  if (sampler == "ddim") return "DDIM";
  if (sampler == "euler") return "Euler";
  if (sampler == "euler_ancestral") return "Euler a";
  if (sampler == "dpmpp_2m") return "DPM++ 2M";
  if (sampler == "dpmpp_2m_karras") return "DPM++ 2M Karras";
  return sampler;
}

/// "style: 0.8, other: 1".
std::string list_of(const std::vector<std::pair<std::string, double>>& files) {
  std::string list;
  for (const auto& [name, strength] : files) list += (list.empty() ? "" : ", ") + name + ": " + format_number(strength);
  return list;
}

/// One hypernetwork as A1111 writes it; it knows no field for several.
std::string hypernetwork_fields(const InfotextModel& model) {
  if (model.hypernetworks.empty()) return "";
  if (model.hypernetworks.size() > 1) return ", Hypernets: " + quote(list_of(model.hypernetworks));
  const auto& [name, strength] = model.hypernetworks.front();
  return ", Hypernet: " + quote(name) + ", Hypernet strength: " + format_number(strength);
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
  text += ", Model hash: " + model.base_sha256.substr(0, kShortHash) + ", Model: " + quote(model.base_name);
  if (model.clip_skip != 1) text += cat(", Clip skip: ", model.clip_skip);
  if (!model.prompt_weights) text += ", Emphasis: None";
  text += hypernetwork_fields(model);
  if (!model.loras.empty()) text += ", Lora: " + quote(list_of(model.loras));
  std::string embeddings;
  for (const std::string& name : model.embeddings) embeddings += (embeddings.empty() ? "" : ", ") + name;
  if (!embeddings.empty()) text += ", TI: " + quote(embeddings);
  return text + ", Version: ldmtune";
}

}  // namespace ldmtune::pipeline
