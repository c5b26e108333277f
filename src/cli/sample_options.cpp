#include "cli/sample_options.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>

#include "core/error.h"

namespace ldmtune::cli {
namespace {

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most)
    fail_input("option ", option, ": expected ", least, " to ", most, ", found ", value);
}

/// A folder for `file` to be written to must be there already.
void check_place(const char* option, const std::filesystem::path& file) {
  if (file.empty()) return;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (!std::filesystem::is_directory(folder))
    fail_input("option ", option, ": folder ", folder.string(), " does not exist");
  if (std::filesystem::is_directory(file))
    fail_input("option ", option, ": expected a file, ", file.string(), " is a folder");
}

void check(const SampleOptions& options) {
  if (options.base.empty())
    fail_input("option base is missing: give --base FOLDER, a base model in the diffusers layout");
  if (options.prompts.empty()) fail_input("option prompt is missing: give --prompt \"what to draw\"");
  if (options.output.empty() && options.output_dir.empty() && options.trace.empty()) {
    fail_input("option output is missing: give --output grid.png (or --output_dir FOLDER for single pictures)");
  }
  check_range("num_images", options.num_images, 1, 10000);
  check_range("columns", options.columns, 0, 1000);
  check_range("scale", options.scale, 0, 64);
  check_range("max_chunks", options.max_chunks, 1, 64);
  if (!std::isfinite(options.guidance_scale) || options.guidance_scale < 0) {
    fail_input("option guidance_scale: expected 0 or above (1: without guidance), found ", options.guidance_scale);
  }
  check_range("clip_skip", options.clip_skip, 1, 1000);
  if (!options.output.empty() && options.output.extension() != ".png") {
    fail_input("option output: expected a file name ending in .png, found ", options.output.string());
  }
  check_place("output", options.output);
  check_place("trace", options.trace);
  if (std::filesystem::exists(options.output_dir) && !std::filesystem::is_directory(options.output_dir)) {
    fail_input("option output_dir: expected a folder, ", options.output_dir.string(), " is none");
  }
}

}  // namespace

void declare(OptionTable& t, SampleOptions& o) {
  t.add("base", o.base, "", "Base model: a folder in the diffusers layout, or a file in the LDM layout");
  t.add("variant", o.variant, "", "Weight files' variant, e.g. fp16");
  t.add("prompt", o.prompts, "", "What to draw; several, separated by | or given again, make several rows");
  t.add("negative_prompt", o.negative_prompt, "", "What guidance leads away from");
  t.add("output", o.output, "", "PNG file for the labelled grid");
  t.add("output_dir", o.output_dir, "", "Folder for the single pictures, image-ROW-COLUMN.png");
  t.add("num_images", o.num_images, "images", "Pictures of each prompt, from different noise");
  t.add("seed", o.seed, "", "Seed of the noise that pictures start from");
  t.add("sampler", o.sampler, "",
        "ddim | euler | euler_ancestral | dpmpp_2m | dpmpp_2m_karras, each equal to diffusers' scheduler");
  t.add("num_inference_steps", o.num_inference_steps, "steps", "Sampler steps; more are slower and finer");
  t.add("guidance_scale", o.guidance_scale, "", "Classifier-free guidance: how strongly the prompt leads (1: off)");
  t.add("width", o.width, "pixels", "Width of a picture (0: what the base was trained at)");
  t.add("height", o.height, "pixels", "Height of a picture (0: what the base was trained at)");
  t.add("max_chunks", o.max_chunks, "chunks", "Chunks of tokens (75 each for SD) that a prompt may fill");
  t.add("prompt_weights", o.prompt_weights, "",
        "Read AUTOMATIC1111's (word:1.1), [word] and BREAK in prompts (false: brackets are text)");
  t.add("clip_skip", o.clip_skip, "layers",
        "Which of the text encoder's layers, from its end, is read (1: the last), as AUTOMATIC1111 counts");
  t.add("hypernetwork", o.hypernetwork, "",
        "AUTOMATIC1111 hypernetwork .pt (or .safetensors), with its strength: FILE or FILE:0.7; several, separated by "
        "commas or given again, act one after the other");
  t.add(
      "lora", o.lora, "",
      "LoRA of diffusers or kohya, with its strength: FILE.safetensors or FILE.safetensors:0.7; several, separated by "
      "commas or given again, add up");
  t.add("embedding", o.embedding, "",
        "Textual inversion embedding of AUTOMATIC1111, diffusers, kohya or OneTrainer, whose word prompts may use: "
        "FILE, or "
        "FILE=WORD for another word; several, separated by commas or given again");
  declare(t, o.base_options);
  t.add("base.merge", o.base_merge, "",
        "LoRA files added to the base's weights at load, as in training: the base that a file was trained on");
  t.add("rescale_betas_zero_snr", o.rescale_betas_zero_snr, "",
        "Draw with the noise schedule that ends without signal, for what was trained with noise.rescale_betas_zero_snr "
        "(needs a base that predicts v)");
  t.add("strengths", o.strengths, "", "Columns at several strengths: --x strength=, e.g. 0,0.5,1");
  t.add("x", o.x, "",
        "Columns for values of one setting: strength=0,0.5,1 (of hypernetworks and LoRAs; of embeddings, where they "
        "alone are given, the word's weight in the prompt; also hypernetwork_strength, lora_strength, "
        "embedding_strength) | steps=10,20 | guidance=3,7.5 | seed=0,1 | sampler=ddim,euler | checkpoint=A.pt,B.pt (in "
        "place of --hypernetwork, or of --lora or --embedding where that alone is given)");
  t.add("y", o.y, "", "Rows for values of one setting, as --x");
  t.add("z", o.z, "", "Blocks of rows for values of one setting, as --x");
  t.add("columns", o.columns, "pictures", "Where the pictures of a single prompt wrap (0: near a square)");
  t.add("scale", o.scale, "",
        "Enlarge each picture of the grid by this whole number (0: small ones to about 192 pixels)");
  t.add("trace", o.trace, "", "HDF5 file for initial_noise, final_latent, image and context of every picture");
  t.add("device", o.device, "", "auto | cpu | cuda");
}

void read_sample_options(const Arguments& arguments, OptionTable& table, SampleOptions& options) {
  CommandLine line = parse_command_line(arguments);
  if (!line.positional.empty()) {
    fail_input("sample: unexpected argument '", line.positional.front(),
               "'; put a prompt in quotes: --prompt \"a cat\"");
  }
  std::map<std::string, std::string> joined{
      {"prompt", ""}, {"hypernetwork", ""}, {"lora", ""}, {"embedding", ""}};  // options that add when given again
  for (OptionSetting& setting : line.settings) {
    const auto found = joined.find(setting.name);
    if (found == joined.end()) continue;
    const char* separator = setting.name == "prompt" ? " | " : ", ";
    setting.text = found->second = found->second.empty() ? setting.text : found->second + separator + setting.text;
  }
  table.set(line.settings);
  check(options);
}

namespace {

std::string joined(std::initializer_list<std::string> parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  }
  return text;
}

std::string title_of(const SampleOptions& options, const std::vector<const SampleAxis*>& axes) {
  const auto varies = [&](const char* setting) {
    return std::any_of(axes.begin(), axes.end(), [&](const SampleAxis* axis) { return axis->setting == setting; });
  };
  std::string title = options.base.filename().string();
  if (!options.base_merge.empty()) title += " + " + options.base_merge;
  if (!options.hypernetwork.empty() && !varies("hypernetwork")) title += " + " + options.hypernetwork;
  if (!options.lora.empty() && !varies("lora")) title += " + " + options.lora;
  if (!options.embedding.empty() && !varies("embedding")) title += " + " + options.embedding;
  if (!varies("sampler")) title += ", " + options.sampler;
  if (!varies("steps")) title += cat(" ", options.num_inference_steps, " steps");
  if (!varies("guidance")) title += ", guidance " + format_number(options.guidance_scale);
  if (!varies("seed")) title += cat(", seed ", options.seed);
  return title;
}

SampleAxis x_axis(const SampleOptions& options) {
  if (options.strengths.empty()) return SampleAxis::parse(options.x, "x", options);
  if (!options.x.empty())
    fail_input("options strengths and x: --strengths LIST is --x strength=LIST; give one of them");
  std::string text;
  for (const double strength : options.strengths) {
    text += (text.empty() ? "strength=" : ",") + format_number(strength);
  }
  return SampleAxis::parse(text, "strengths", options);
}

}  // namespace

SamplePlan plan_sample(const SampleOptions& options) {
  const SampleAxis x = x_axis(options);
  const SampleAxis y = SampleAxis::parse(options.y, "y", options), z = SampleAxis::parse(options.z, "z", options);
  const auto images = static_cast<std::size_t>(options.num_images);
  SamplePlan plan;
  plan.columns = images * x.values.size();
  for (std::size_t row = 0; row < options.prompts.size() * z.values.size() * y.values.size(); ++row) {
    const std::size_t y_at = row % y.values.size(), z_at = row / y.values.size() % z.values.size();
    const std::size_t prompt = row / y.values.size() / z.values.size();
    const bool shows_prompt = options.prompts.size() > 1 || !(y.is_used() || z.is_used());
    plan.row_labels.push_back(joined({shows_prompt ? options.prompts[prompt] : "", z.label(z_at), y.label(y_at)}));
    for (std::size_t column = 0; column < plan.columns; ++column) {
      SampleCell cell{prompt, column / x.values.size(), SampleSettings::of(options)};
      x.apply(column % x.values.size(), cell.settings);
      y.apply(y_at, cell.settings);
      z.apply(z_at, cell.settings);
      plan.cells.push_back(std::move(cell));
    }
  }
  plan.title = title_of(options, {&x, &y, &z});
  const bool is_plain = x.values.size() == 1 && !y.is_used() && !z.is_used();
  if (options.prompts.size() == 1 && is_plain && (options.columns > 0 || plan.columns > 8)) {
    const auto square = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(plan.columns))));
    plan.columns = std::min(plan.columns, options.columns > 0 ? static_cast<std::size_t>(options.columns) : square);
    plan.title = options.prompts.front() + "  (" + plan.title + ")";
    plan.row_labels.clear();
    return plan;
  }
  if (options.prompts.size() == 1 && (y.is_used() || z.is_used())) {
    plan.title = options.prompts.front() + "  (" + plan.title + ")";
  }
  for (std::size_t column = 0; column < plan.columns && plan.columns > 1; ++column) {
    const std::string number = images > 1 ? cat("#", column / x.values.size()) : "";
    plan.column_labels.push_back(joined({number, x.values.size() > 1 ? x.label(column % x.values.size()) : ""}));
  }
  return plan;
}

}  // namespace ldmtune::cli
