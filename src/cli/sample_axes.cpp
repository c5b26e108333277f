#include "cli/sample_axes.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>

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
      {"strength",
       [](auto& text, auto& s) { s.hypernetwork_strength = s.lora_strength = number<double>(text, "strength"); }},
      {"hypernetwork_strength",
       [](auto& text, auto& s) { s.hypernetwork_strength = number<double>(text, "hypernetwork_strength"); }},
      {"lora_strength", [](auto& text, auto& s) { s.lora_strength = number<double>(text, "lora_strength"); }},
      {"embedding_strength",
       [](auto& text, auto& s) { s.embedding_strength = number<double>(text, "embedding_strength"); }},
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
      {"embedding", [](auto& text, auto& s) { s.embedding = text; }},
  };
  return known;
}

/// Whether an axis names files of this kind.
bool varies(const std::string& setting, const SampleOptions& options) {
  for (const std::string* axis : {&options.x, &options.y, &options.z}) {
    if (axis->starts_with(setting + "=") || axis->starts_with("checkpoint=")) return true;
  }
  return false;
}

/// Names that users know, and ours.
std::string setting_named(const std::string& name, const SampleOptions& options) {
  if (name == "num_inference_steps") return "steps";
  if (name == "guidance_scale" || name == "cfg") return "guidance";
  const bool has_networks = !options.hypernetwork.empty() || !options.lora.empty();
  const bool only_words = !has_networks && !options.embedding.empty();
  if (name == "strength" || name == "strengths") return only_words ? "embedding_strength" : "strength";
  if (name != "checkpoint") return name;
  if (only_words) return "embedding";
  return options.hypernetwork.empty() && !options.lora.empty() ? "lora" : "hypernetwork";
}

bool names_files(const std::string& setting) {
  return setting == "hypernetwork" || setting == "lora" || setting == "embedding";
}

/// Which option must be given for a strength to mean anything.
void expect_something_strong(const std::string& setting, const std::string& option, const SampleOptions& options) {
  const auto expect = [&](bool given, const char* what) {
    if (!given) fail_input("option ", option, ": ", setting, " needs ", what);
  };
  const bool has_hypernetwork = !options.hypernetwork.empty() || varies("hypernetwork", options);
  const bool has_lora = !options.lora.empty() || varies("lora", options);
  if (setting == "strength") {
    expect(has_hypernetwork || has_lora, "--hypernetwork FILE, --lora FILE or --embedding FILE");
  }
  if (setting == "hypernetwork_strength") expect(has_hypernetwork, "--hypernetwork FILE");
  if (setting == "lora_strength") expect(has_lora, "--lora FILE");
  if (setting != "embedding_strength") return;
  expect(!options.embedding.empty() || varies("embedding", options), "--embedding FILE");
  expect(options.prompt_weights, "--prompt_weights true: it is the word's weight in the prompt");
}

}  // namespace

std::string SampleAxis::file_label(std::size_t i) const {
  const auto name_of = [&](std::size_t j) { return std::filesystem::path(values[j]).filename().string(); };
  const auto same = [&](std::size_t j) { return j != i && name_of(j) == name_of(i); };
  std::vector<std::size_t> others(values.size());
  std::iota(others.begin(), others.end(), std::size_t{0});
  if (std::none_of(others.begin(), others.end(), same)) return name_of(i);
  // Checkpoints of one run: step-00000100/pencil.pt
  return (std::filesystem::path(values[i]).parent_path().filename() / name_of(i)).string();
}

SampleSettings SampleSettings::of(const SampleOptions& options) {
  SampleSettings settings;
  settings.seed = options.seed;
  settings.sampler = options.sampler;
  settings.num_inference_steps = options.num_inference_steps;
  settings.guidance_scale = options.guidance_scale;
  settings.hypernetwork = options.hypernetwork;
  settings.lora = options.lora;
  settings.embedding = options.embedding;
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
  expect_something_strong(axis.setting, option, options);
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
  if (names_files(setting)) return file_label(i);
  if (setting == "sampler") return values[i];
  std::string name = setting;
  std::replace(name.begin(), name.end(), '_', ' ');
  return name + " " + values[i];
}

}  // namespace ldmtune::cli
