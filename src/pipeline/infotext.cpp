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

/// A1111's sampler, and its schedule where it is not the sampler's own.
std::string sampler_fields(const std::string& sampler) {
  if (sampler == "ddim") return "DDIM";
  if (sampler == "euler") return "Euler";
  if (sampler == "euler_ancestral") return "Euler a";
  if (sampler == "dpmpp_2m") return "DPM++ 2M";
  if (sampler == "dpmpp_2m_karras") return "DPM++ 2M, Schedule type: Karras";
  return sampler;
}

/// A name as it may stand in tags and lists of hashes.
std::string plain(std::string name) {
  std::erase_if(name, [](char c) { return c == ':' || c == ',' || c == '<' || c == '>'; });
  return name;
}

/// "<lora:style:0.8>".
std::string tags_of(const std::vector<InfotextFile>& files, const char* kind) {
  std::string tags;
  for (const InfotextFile& file : files) {
    tags += cat("<", kind, ":", plain(file.name), ":", format_number(file.strength), ">");
  }
  return tags;
}

/// ", Lora hashes: \"style: 0123456789ab\"".
std::string hashes_of(const std::vector<InfotextFile>& files, const char* label) {
  std::string list;
  for (const InfotextFile& file : files) list += (list.empty() ? "" : ", ") + plain(file.name) + ": " + file.hash;
  return list.empty() ? "" : cat(", ", label, ": ", quote(list));
}

/// The one hypernetwork in fields of its own; several are tags.
std::string hypernetwork_fields(const std::vector<InfotextFile>& files) {
  if (files.size() > 1) return hashes_of(files, "Hypernet hashes");
  if (files.empty()) return "";
  const InfotextFile& file = files.front();
  return cat(", Hypernet: ", quote(file.name), ", Hypernet hash: ", file.hash,
             ", Hypernet strength: ", format_number(file.strength));
}

std::vector<InfotextFile> used_words(const InfotextModel& model, const GenerateRequest& request) {
  std::vector<InfotextFile> used;
  for (const InfotextFile& word : model.embeddings) {
    const bool is_used = request.prompt.find(word.name) != std::string::npos ||
                         request.negative_prompt.find(word.name) != std::string::npos;
    if (is_used) used.push_back(word);
  }
  return used;
}

}  // namespace

std::string infotext(const GenerateRequest& request, const InfotextModel& model, std::int64_t width,
                     std::int64_t height) {
  std::string text = request.prompt + tags_of(model.loras, "lora");
  if (model.hypernetworks.size() > 1) text += tags_of(model.hypernetworks, "hypernet");
  if (!request.negative_prompt.empty()) text += "\nNegative prompt: " + request.negative_prompt;
  text += cat("\nSteps: ", request.num_inference_steps, ", Sampler: ", sampler_fields(request.sampler),
              ", CFG scale: ", format_number(request.guidance_scale), ", Seed: ", request.seed,
              ", Image index: ", request.index, ", Size: ", width, "x", height, ", Model hash: ", model.base_hash,
              ", Model: ", quote(model.base_name));
  text += hypernetwork_fields(model.hypernetworks);
  if (model.zero_terminal_snr) text += ", Noise Schedule: Zero Terminal SNR";
  if (model.clip_skip != 1) text += cat(", Clip skip: ", model.clip_skip);
  text += hashes_of(model.loras, "Lora hashes") + hashes_of(used_words(model, request), "TI hashes");
  if (!model.prompt_weights) text += ", Emphasis: None";
  return text + ", Version: ldmtune";
}

}  // namespace ldmtune::pipeline
