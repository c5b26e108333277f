#pragma once
// Options of `sample`, and the pictures that they ask for.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/sample_axes.h"
#include "core/config.h"
#include "core/options.h"

namespace ldmtune::cli {

struct SampleOptions {
  std::filesystem::path base;
  std::string variant;
  std::vector<std::string> prompts;
  std::string negative_prompt;
  std::uint64_t seed = 0;
  std::int64_t num_images = 1;
  std::string sampler = "ddim";
  std::int64_t num_inference_steps = 30;
  double guidance_scale = 7.5;
  std::int64_t width = 0, height = 0;
  std::int64_t max_chunks = 1;
  std::string base_merge;
  BaseConfig base_options;
  bool rescale_betas_zero_snr = false;
  std::string hypernetwork;
  std::string lora;
  std::string embedding;  ///< FILE or FILE=TOKEN, separated by commas
  std::vector<double> strengths;
  std::string x, y, z;         ///< axes, as SampleAxis::parse reads them
  bool prompt_weights = true;  ///< A1111's brackets and BREAK in prompts
  std::int64_t clip_skip = 1;
  std::int64_t columns = 0;
  std::int64_t scale = 0;
  std::filesystem::path output, output_dir, trace;
  std::string device = "auto";
};
void declare(OptionTable& table, SampleOptions& options);

/// Reads the command line into `options` (a repeated --prompt adds) and checks what needs no model.
void read_sample_options(const Arguments& arguments, OptionTable& table, SampleOptions& options);

/// One picture of the grid.
struct SampleCell {
  std::size_t prompt = 0;   ///< index into SampleOptions::prompts
  std::uint64_t index = 0;  ///< which initial noise
  SampleSettings settings;
};

/// The grid: cells row by row.
struct SamplePlan {
  std::vector<SampleCell> cells;
  std::size_t columns = 1;
  std::vector<std::string> row_labels, column_labels;
  std::string title;
};
/// A pure function of the options: rows are prompts, in each the values of z, in each those of y; columns are images,
/// in each the values of x. Without axes the images of a single prompt wrap at --columns.
SamplePlan plan_sample(const SampleOptions& options);

}  // namespace ldmtune::cli
