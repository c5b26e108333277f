#include "cli/sample_options.h"

#include <cmath>
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
  if (!options.strengths.empty() && options.hypernetwork.empty() && options.lora.empty()) {
    fail_input("option strengths is for a hypernetwork or LoRA: give --hypernetwork FILE or --lora FILE too");
  }
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
  t.add("base", o.base, "", "Base model, a folder in the diffusers layout");
  t.add("variant", o.variant, "", "Weight files' variant, e.g. fp16");
  t.add("prompt", o.prompts, "", "What to draw; several, separated by | or given again, make several rows");
  t.add("negative_prompt", o.negative_prompt, "", "What guidance leads away from");
  t.add("output", o.output, "", "PNG file for the labelled grid");
  t.add("output_dir", o.output_dir, "", "Folder for the single pictures, image-ROW-COLUMN.png");
  t.add("num_images", o.num_images, "images", "Pictures of each prompt, from different noise");
  t.add("seed", o.seed, "", "Seed of the noise that pictures start from");
  t.add("sampler", o.sampler, "", "ddim | euler");
  t.add("num_inference_steps", o.num_inference_steps, "steps", "Sampler steps; more are slower and finer");
  t.add("guidance_scale", o.guidance_scale, "", "Classifier-free guidance: how strongly the prompt leads (1: off)");
  t.add("width", o.width, "pixels", "Width of a picture (0: what the base was trained at)");
  t.add("height", o.height, "pixels", "Height of a picture (0: what the base was trained at)");
  t.add("max_chunks", o.max_chunks, "chunks", "Chunks of tokens (75 each for SD) that a prompt may fill");
  t.add("hypernetwork", o.hypernetwork, "", "AUTOMATIC1111 hypernetwork .pt, with its strength: FILE or FILE:0.7");
  t.add(
      "lora", o.lora, "",
      "LoRA of diffusers or kohya, with its strength: FILE.safetensors or FILE.safetensors:0.7; several, separated by "
      "commas or given again, add up");
  t.add("embedding", o.embedding, "",
        "Textual inversion embedding of AUTOMATIC1111, diffusers, kohya or OneTrainer, whose word prompts may use: "
        "FILE, or "
        "FILE=WORD for another word; several, separated by commas or given again");
  t.add("base.merge", o.base_merge, "",
        "LoRA files added to the base's weights at load, as in training: the base that a file was trained on");
  t.add("strengths", o.strengths, "", "Columns at several strengths of hypernetwork and LoRA, e.g. 0,0.5,1");
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
      {"prompt", ""}, {"lora", ""}, {"embedding", ""}};  // options that add when given again
  for (OptionSetting& setting : line.settings) {
    const auto found = joined.find(setting.name);
    if (found == joined.end()) continue;
    const char* separator = setting.name == "prompt" ? " | " : ", ";
    setting.text = found->second = found->second.empty() ? setting.text : found->second + separator + setting.text;
  }
  table.set(line.settings);
  check(options);
}

SamplePlan plan_sample(const SampleOptions& options) {
  const bool several = options.strengths.size() > 1;
  const std::vector<double> strengths = options.strengths.empty() ? std::vector<double>{1.0} : options.strengths;
  const auto images = static_cast<std::size_t>(options.num_images);
  SamplePlan plan;
  for (std::size_t prompt = 0; prompt < options.prompts.size(); ++prompt) {
    for (std::size_t image = 0; image < images; ++image) {
      for (const double strength : strengths) plan.cells.push_back({prompt, image, strength});
    }
  }
  plan.title =
      cat(options.base.filename().string(), options.base_merge.empty() ? "" : " + " + options.base_merge,
          options.hypernetwork.empty() ? "" : " + " + options.hypernetwork,
          options.lora.empty() ? "" : " + " + options.lora, options.embedding.empty() ? "" : " + " + options.embedding,
          ", ", options.sampler, " ", options.num_inference_steps, " steps, guidance ",
          format_number(options.guidance_scale), ", seed ", options.seed);
  plan.columns = images * strengths.size();
  if (options.prompts.size() == 1 && !several && (options.columns > 0 || plan.columns > 8)) {
    const auto square = static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(plan.columns))));
    plan.columns = std::min(plan.columns, options.columns > 0 ? static_cast<std::size_t>(options.columns) : square);
    plan.title = options.prompts.front() + "  (" + plan.title + ")";
    return plan;
  }
  plan.row_labels = options.prompts;
  for (std::size_t column = 0; column < plan.columns && plan.columns > 1; ++column) {
    const std::string number = cat("#", column / strengths.size());
    const std::string strength = "strength " + format_number(strengths[column % strengths.size()]);
    plan.column_labels.push_back(!several ? number : images > 1 ? number + ", " + strength : strength);
  }
  return plan;
}

}  // namespace ldmtune::cli
