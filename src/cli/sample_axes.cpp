#include "cli/sample_axes.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "cli/sample_options.h"
#include "core/error.h"
#include "core/options.h"
#include "diffusion/sampler.h"

namespace ldmtune::cli {
namespace {

template <class Number>
Number number(const std::string& text, const std::string& setting) {
  Number value{};
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  bool is_finite = true;
  if constexpr (std::is_floating_point_v<Number>) is_finite = std::isfinite(value);
  if (error != std::errc{} || end != last || !is_finite) {
    fail_input(setting, ": expected a ", std::is_floating_point_v<Number> ? "number" : "whole number", ", found '",
               text, "'");
  }
  return value;
}

void set_sampler(const std::string& text, SampleSettings& settings) {
  std::string known;
  for (const std::string& name : diffusion::sampler_names()) {
    if (name == text) settings.sampler = text;
    known += (known.empty() ? "" : ", ") + name;
  }
  if (settings.sampler != text) fail_input("sampler: expected one of ", known, ", found '", text, "'");
}

using Setter = std::function<void(const std::string&, SampleSettings&)>;

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> known{
      {"strength", [](auto& text, auto& s) { s.strength = number<double>(text, "strength"); }},
      {"steps", [](auto& text, auto& s) { s.num_inference_steps = number<std::int64_t>(text, "steps"); }},
      {"guidance",
       [](auto& text, auto& s) {
         s.guidance_scale = number<double>(text, "guidance");
         if (s.guidance_scale < 0) fail_input("guidance: expected 0 or above, found ", text);
       }},
      {"seed", [](auto& text, auto& s) { s.seed = number<std::uint64_t>(text, "seed"); }},
      {"sampler", [](auto& text, auto& s) { set_sampler(text, s); }},
      {"hypernetwork", [](auto& text, auto& s) { s.hypernetwork = text; }},
      {"lora", [](auto& text, auto& s) { s.lora = text; }},
  };
  return known;
}

/// Names that users know, and ours.
std::string setting_named(const std::string& name, const SampleOptions& options) {
  if (name == "num_inference_steps") return "steps";
  if (name == "guidance_scale" || name == "cfg") return "guidance";
  if (name == "strengths") return "strength";
  if (name != "checkpoint") return name;
  return options.hypernetwork.empty() && !options.lora.empty() ? "lora" : "hypernetwork";
}

bool names_files(const std::string& setting) { return setting == "hypernetwork" || setting == "lora"; }

}  // namespace

SampleSettings SampleSettings::of(const SampleOptions& options) {
  SampleSettings settings;
  settings.seed = options.seed;
  settings.sampler = options.sampler;
  settings.num_inference_steps = options.num_inference_steps;
  settings.guidance_scale = options.guidance_scale;
  settings.hypernetwork = options.hypernetwork;
  settings.lora = options.lora;
  return settings;
}

SampleAxis SampleAxis::parse(const std::string& text, const std::string& option, const SampleOptions& options) {
  SampleAxis axis;
  if (text.empty()) return axis;
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  axis.setting = setting_named(name, options);
  if (equals == std::string::npos || setters().count(axis.setting) == 0) {
    std::string known = "checkpoint";
    for (const auto& [setting, setter] : setters()) known += ", " + setting;
    fail_input("option ", option, ": expected SETTING=VALUE,VALUE ... with one of ", known, ", found '", text, "'");
  }
  axis.values = split_list(text.substr(equals + 1), ',');
  if (axis.values.empty()) fail_input("option ", option, ": expected values for ", name, ", found none");
  SampleSettings unused = SampleSettings::of(options);
  for (std::size_t i = 0; i < axis.values.size(); ++i) {
    try {
      axis.apply(i, unused);
    } catch (const InputError& error) {
      fail_input("option ", option, ": ", error.what());
    }
    if (axis.values[i].empty())
      fail_input("option ", option, ": expected a value behind each comma, found '", text, "'");
  }
  return axis;
}

void SampleAxis::apply(std::size_t i, SampleSettings& settings) const {
  if (is_used()) setters().at(setting)(values[i], settings);
}

std::string SampleAxis::label(std::size_t i) const {
  if (!is_used()) return "";
  if (names_files(setting)) return std::filesystem::path(values[i]).filename().string();
  return setting == "sampler" ? values[i] : setting + " " + values[i];
}

}  // namespace ldmtune::cli
